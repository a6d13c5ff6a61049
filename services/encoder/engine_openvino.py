"""The OpenVINO engine: CPUs."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch

from services.encoder.engine import ImageTower, TextTower, Vectors, unit

_TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16, "f16": ov.Type.f16}


def best_precision() -> str:
    """bf16 where the processor computes in it (AMX, AVX512-BF16), else f32."""
    return "bf16" if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


class OpenVinoEngine:
    """Both towers converted from cn_clip's module, with free batch and text length."""

    name = "openvino"
    device = "cpu"

    def __init__(self, clip: Any, resolution: int, precision: str, threads: int, cache: Path) -> None:
        """`cache`: folder and first part of the names of the files that keep the converted towers."""
        self.precision = precision
        options = {
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
        }
        core = ov.Core()
        example_ids = torch.ones((2, 7), dtype=torch.int64)
        example_pixels = torch.zeros((2, 3, resolution, resolution), dtype=torch.uint8)
        texts = _cached(
            core,
            cache.with_name(f"{cache.name}-texts.xml"),
            lambda: _convert(TextTower(clip), example_ids, ov.PartialShape([-1, -1])),
        )
        images = _cached(
            core,
            cache.with_name(f"{cache.name}-images.xml"),
            lambda: _convert(ImageTower(clip), example_pixels, ov.PartialShape([-1, 3, resolution, resolution])),
        )
        self._texts = core.compile_model(texts, "CPU", options).create_infer_request()
        self._images = core.compile_model(images, "CPU", options).create_infer_request()

    def encode_texts(self, ids: npt.NDArray[np.int64]) -> Vectors:
        return unit(self._texts.infer([ids])[0])

    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> Vectors:
        return unit(self._images.infer([np.ascontiguousarray(pixels)])[0])


def cache_name(checkpoint_sha256: str, preprocessing_version: int) -> str:
    """The first part of the names of a model's converted towers: whatever changes them is in it."""
    return f"{checkpoint_sha256}-{preprocessing_version}-openvino-{ov.get_version().split('-')[0]}"


def _cached(core: ov.Core, path: Path, convert: Callable[[], ov.Model]) -> ov.Model:
    """The model kept at `path`, or the converted one, kept there from now on. A cache that fails is done without."""
    with contextlib.suppress(RuntimeError, OSError):
        if path.exists():
            return core.read_model(path, path.with_suffix(".bin"))
    model = convert()
    with contextlib.suppress(RuntimeError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.stem}-{os.getpid()}.xml")
        ov.save_model(model, new, compress_to_fp16=False)
        os.replace(new.with_suffix(".bin"), path.with_suffix(".bin"))  # the weights first: the other file names them
        os.replace(new, path)
    return model


def _convert(tower: torch.nn.Module, example: torch.Tensor, shape: ov.PartialShape) -> ov.Model:
    # Tracing warns about every Python number it freezes; none of them depends on batch or length here.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        model = ov.convert_model(tower.eval(), example_input=example)
        model.reshape({model.input(0): shape})
    return model
