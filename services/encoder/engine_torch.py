"""The torch engine: CUDA, or a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.encoder.engine import ImageTower, TextTower, Vectors, unit

_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchEngine:
    """cn_clip's module as it is, in one precision."""

    name = "torch"

    def __init__(self, clip: Any, device: str, precision: str, threads: int) -> None:
        self.device, self.precision = device, precision
        if device == "cpu":
            torch.set_num_threads(threads)
        self._clip = clip.to(device=device, dtype=_TYPES[precision])
        self._texts = TextTower(self._clip).eval()
        # The scaling of pixels stays in fp32: encode_image narrows its result.
        self._images = ImageTower(self._clip).to(device).eval()

    @torch.inference_mode()
    def encode_texts(self, ids: npt.NDArray[np.int64]) -> Vectors:
        return self._back(self._texts(torch.from_numpy(ids).to(self.device)))

    @torch.inference_mode()
    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> Vectors:
        return self._back(self._images(torch.from_numpy(pixels).to(self.device)))

    def _back(self, vectors: torch.Tensor) -> Vectors:
        return unit(vectors.float().cpu().numpy())
