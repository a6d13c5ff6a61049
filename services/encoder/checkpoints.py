"""From a model's name or path to cn_clip's CLIP module with its weights."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from services.common.fingerprint import Fingerprint
from services.encoder.cn_clip_import import CLIP, MODEL_CONFIGS, STRUCTURES, convert_weights, download

DEMO_FOLDER = Path(__file__).parent / "demo_model"
CHECKPOINT_NAME = "model.pt"
CONFIG_NAME = "config.json"
# To be raised with every change to how texts or pictures are prepared.
PREPROCESSING_VERSION = 1


class ModelError(Exception):
    """A model cannot be loaded; the message says what was looked for and where."""


@dataclass(frozen=True)
class LoadedModel:
    """cn_clip's module in evaluation mode and fp32, with what is known of it."""

    module: Any
    fingerprint: Fingerprint
    image_resolution: int
    logit_scale: float


def load_model(model: str, *, architecture: str, cache: Path, hub: str) -> LoadedModel:
    """Load `model`: 'demo', a name of cn_clip, a checkpoint file in cn_clip's format, or a folder with one.

    Raises ModelError where it cannot be had.
    """
    if model in STRUCTURES:
        path, name, config = _downloaded(model, cache, hub), model, named_config(model)
    else:
        path, name, config = _local(DEMO_FOLDER if model == "demo" else Path(model).expanduser(), architecture)
    module = build(config, _read(path))
    fingerprint = Fingerprint(name, int(module.text_projection.shape[1]), _sha256(path), PREPROCESSING_VERSION)
    return LoadedModel(module, fingerprint, int(config["image_resolution"]), float(module.logit_scale.detach().exp()))


def build(config: dict[str, Any], state: dict[str, Any]) -> Any:
    """The module with the weights of `state`, by cn_clip's own steps (cn_clip/clip/utils.py, create_model).

    cn_clip holds weights in fp16 and widens them for a CPU: done likewise here, so that the numbers are its own.
    """
    try:
        module = CLIP(**config)
        convert_weights(module)
        prefix = "module."
        names = {name.removeprefix(prefix): value for name, value in state.items() if "bert.pooler" not in name}
        module.load_state_dict(names)
    except (RuntimeError, TypeError, KeyError) as error:
        raise ModelError(f"the checkpoint does not fit its configuration: {error}") from error
    return module.float().eval()


def named_config(name: str) -> dict[str, Any]:
    """The configuration of one of cn_clip's names, from its model_configs."""
    vision, text = STRUCTURES[name].split("@")
    config = {
        **json.loads((MODEL_CONFIGS / f"{vision}.json").read_text()),
        **json.loads((MODEL_CONFIGS / f"{text}.json").read_text()),
    }
    if isinstance(config["vision_layers"], str):  # "[3,4,6,3]"
        config["vision_layers"] = json.loads(config["vision_layers"])
    return config


def _downloaded(name: str, cache: Path, hub: str) -> Path:
    folder = cache.expanduser()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return Path(download(name, str(folder), use_modelscope=hub == "modelscope"))
    except Exception as error:  # the hubs' libraries raise whatever they like
        raise ModelError(f"model {name} is not in {folder} and cannot be had from {hub}: {error}") from error


def _local(path: Path, architecture: str) -> tuple[Path, str, dict[str, Any]]:
    checkpoint = path / CHECKPOINT_NAME if path.is_dir() else path
    if not checkpoint.is_file():
        names = ", ".join(STRUCTURES)
        raise ModelError(f"there is no checkpoint at {checkpoint}, and the names are demo, {names}")
    beside = checkpoint.with_name(CONFIG_NAME)
    if architecture:
        if architecture not in STRUCTURES:
            raise ModelError(f"--architecture {architecture} is none of {', '.join(STRUCTURES)}")
        return checkpoint, checkpoint.stem, named_config(architecture)
    if not beside.is_file():
        raise ModelError(
            f"{checkpoint} has no {CONFIG_NAME} beside it: name the cn_clip model it was tuned from by --architecture"
        )
    config = json.loads(beside.read_text(encoding="utf-8"))
    return checkpoint, str(config.pop("name", checkpoint.stem)), config


def _read(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Any] = checkpoint["state_dict"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path} is no checkpoint in cn_clip's format: {error}") from error
    return state


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
