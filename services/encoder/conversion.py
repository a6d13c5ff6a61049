"""cn_clip's towers as OpenVINO models, converted once and kept on disk."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import openvino as ov
import structlog

from services.encoder.checkpoints import Checkpoint
from services.encoder.references import reference_of

log = structlog.get_logger()

_LOGIT_SCALE = "logit_scale"


def towers(core: ov.Core, checkpoint: Checkpoint, cache: Path) -> tuple[ov.Model, ov.Model, float]:
    """The text tower, the image tower and the logit scale, read from the folder `cache`, or converted and stored there.

    The models take any batch size and text length. If the cache cannot be used, the towers are converted in memory.
    """
    # The file names contain everything that changes the converted towers.
    version = ov.get_version().split("-")[0]
    model = checkpoint.fingerprint
    name = f"{model.checkpoint_sha256}-{model.images_version}-openvino-{version}"
    paths = [cache / f"{name}-{tower}.xml" for tower in ("texts", "images")]
    with contextlib.suppress(RuntimeError, OSError):
        if all(path.exists() for path in paths):
            texts, images = (core.read_model(path, path.with_suffix(".bin")) for path in paths)
            return texts, images, float(texts.get_rt_info(_LOGIT_SCALE).value)
    log.info("converting", model=model.name)
    texts, images, scale = _converted(checkpoint, cache)
    texts.set_rt_info(repr(scale), _LOGIT_SCALE)  # stored as text, since a number would lose digits
    with contextlib.suppress(RuntimeError, OSError):
        for tower, path in zip((texts, images), paths, strict=True):
            _save(tower, path)
    return texts, images, scale


def _converted(checkpoint: Checkpoint, cache: Path) -> tuple[ov.Model, ov.Model, float]:
    import torch

    from services.encoder.module import load_module, logit_scale
    from services.encoder.towers import ImageTower, TextTower

    def convert(tower: torch.nn.Module, example: torch.Tensor, shape: list[int]) -> ov.Model:
        # Tracing warns about every Python number that becomes a constant. None of them depends on batch or length here.
        logging.getLogger("nncf").setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            model: Any = ov.convert_model(tower.eval(), example_input=example)
            model.reshape({model.input(0): ov.PartialShape(shape)})
        return model

    module = load_module(checkpoint)
    reference_of(checkpoint, cache, module)  # later starts have no module to ask
    side = checkpoint.image_resolution
    texts = convert(TextTower(module), torch.ones((2, 7), dtype=torch.int64), [-1, -1])
    images = convert(ImageTower(module), torch.zeros((2, 3, side, side), dtype=torch.uint8), [-1, 3, side, side])
    return texts, images, logit_scale(module)


def _save(model: ov.Model, path: Path) -> None:
    """Write both files atomically: under temporary names first, and the weights before the file that refers to them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.stem}-{os.getpid()}.xml")
    ov.save_model(model, new, compress_to_fp16=False)
    os.replace(new.with_suffix(".bin"), path.with_suffix(".bin"))
    os.replace(new, path)
