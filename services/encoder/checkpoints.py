"""Finds the checkpoint of a model's name or path on the local disk. Nothing here needs torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.fingerprint import Fingerprint
from services.encoder.downloads import Hub, download, verify
from services.encoder.errors import ModelError

DEMO_FOLDER = Path(__file__).parent / "demo_model"
CHECKPOINT_NAME = "model.pt"
CONFIG_NAME = "config.json"
# Raise it with every change to the preparation of texts or images, and enter the new version in IMAGES_AS_OF of
# services/common/fingerprint.py. Version 2: texts are cleaned as in cn_clip's data code.
PREPROCESSING_VERSION = 2


@dataclass(frozen=True)
class Named:
    """A model of cn_clip: its structure, and the name of its file on the hubs."""

    structure: str
    file: str


# As in _MODEL_INFO and _MODELS of cn_clip/clip/utils.py, which only torch can import. A test holds them in step.
NAMED = {
    "ViT-B-16": Named("ViT-B-16@RoBERTa-wwm-ext-base-chinese", "clip_cn_vit-b-16.pt"),
    "ViT-L-14": Named("ViT-L-14@RoBERTa-wwm-ext-base-chinese", "clip_cn_vit-l-14.pt"),
    "ViT-L-14-336": Named("ViT-L-14-336@RoBERTa-wwm-ext-base-chinese", "clip_cn_vit-l-14-336.pt"),
    "ViT-H-14": Named("ViT-H-14@RoBERTa-wwm-ext-large-chinese", "clip_cn_vit-h-14.pt"),
    "RN50": Named("RN50@RBT3-chinese", "clip_cn_rn50.pt"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A file in cn_clip's format and its configuration: the keyword arguments of cn_clip's `CLIP`."""

    path: Path
    config: dict[str, Any]
    fingerprint: Fingerprint

    @property
    def image_resolution(self) -> int:
        return int(self.config["image_resolution"])


def find_checkpoint(model: str, *, architecture: str, cache: Path, hub: Hub) -> Checkpoint:
    """The checkpoint of 'demo', of a name of cn_clip, of a file in cn_clip's format, or of a folder with one.

    The checkpoint of a name is downloaded if it is not in `cache`. Raises ModelError if it cannot be found or loaded.
    """
    if model in NAMED:
        path = cache.expanduser() / NAMED[model].file
        missing = not path.is_file()
        if missing:
            download(model, path, hub)
        return _checkpoint(path, model, named_config(model), downloaded=missing)
    local = DEMO_FOLDER if model == "demo" else Path(model).expanduser()
    return _checkpoint(*_local(local, architecture))


def named_config(name: str) -> dict[str, Any]:
    """The configuration of one of cn_clip's names, from its model_configs."""
    vision, text = NAMED[name].structure.split("@")
    folder = cn_clip_folder() / "model_configs"
    config = {
        **json.loads((folder / f"{vision}.json").read_text()),
        **json.loads((folder / f"{text}.json").read_text()),
    }
    if isinstance(config["vision_layers"], str):  # "[3,4,6,3]"
        config["vision_layers"] = json.loads(config["vision_layers"])
    return config


def cn_clip_folder() -> Path:
    """The folder of cn_clip's files. cn_clip is not imported, since that needs torch, seconds and 300 MB."""
    spec = importlib.util.find_spec("cn_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("cn_clip is not installed: pip install --no-deps -r requirements/cn-clip.txt")
    return Path(spec.submodule_search_locations[0]) / "clip"


def _checkpoint(path: Path, name: str, config: dict[str, Any], *, downloaded: bool = False) -> Checkpoint:
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        verify(path, sha256, downloaded=downloaded)
        return Checkpoint(path, config, Fingerprint(name, int(config["embed_dim"]), sha256, PREPROCESSING_VERSION))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the configuration of {path} has no usable embed_dim: {error}") from error


def _local(path: Path, architecture: str) -> tuple[Path, str, dict[str, Any]]:
    checkpoint = path / CHECKPOINT_NAME if path.is_dir() else path
    if not checkpoint.is_file():
        names = ", ".join(NAMED)
        raise ModelError(f"there is no checkpoint at {checkpoint}, and the names are demo, {names}")
    beside = checkpoint.with_name(CONFIG_NAME)
    if architecture:
        if architecture not in NAMED:
            raise ModelError(f"--architecture {architecture} is none of {', '.join(NAMED)}")
        return checkpoint, checkpoint.stem, named_config(architecture)
    if not beside.is_file():
        raise ModelError(
            f"{checkpoint} has no {CONFIG_NAME} beside it: name the cn_clip model it was tuned from by --architecture"
        )
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
        return checkpoint, str(config.pop("name", checkpoint.stem)), config
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{beside} is not a JSON object: {error}") from error
