"""The torch engine: CUDA, or a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.encoder.engine import ImageTower, TextTower, Vectors, unit

_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchEngine:
    """cn_clip's module as it is: weights in fp32, and matrix products and convolutions in one precision."""

    name = "torch"

    def __init__(self, clip: Any, device: str, precision: str, threads: int) -> None:
        self.device, self.precision = device, precision
        if device == "cpu":
            torch.set_num_threads(threads)
        self._texts = TextTower(clip).to(device).eval()
        self._images = ImageTower(clip).to(device).eval()

    def encode_texts(self, ids: npt.NDArray[np.int64]) -> Vectors:
        return self._run(self._texts, torch.from_numpy(ids))

    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> Vectors:
        return self._run(self._images, torch.from_numpy(pixels))

    @torch.inference_mode()
    def _run(self, tower: torch.nn.Module, inputs: torch.Tensor) -> Vectors:
        kind = torch.device(self.device).type
        with torch.autocast(kind, dtype=_TYPES[self.precision], enabled=self.precision != "f32"):
            vectors: torch.Tensor = tower(inputs.to(self.device))
        return unit(vectors.float().cpu().numpy())
