"""What computes vectors: the seam between the encoder and its two engines."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

MEAN = (0.48145466, 0.4578275, 0.40821073)  # cn_clip/clip/utils.py, image_transform
STD = (0.26862954, 0.26130258, 0.27577711)

Vectors = npt.NDArray[np.float32]


class Engine(Protocol):
    """Computes on one device. Not for several threads at once, except one for texts and one for pictures."""

    name: str
    device: str
    precision: str

    def encode_texts(self, ids: npt.NDArray[np.int64]) -> Vectors:
        """ids [n, length], padded with 0, to unit vectors [n, dim]."""

    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> Vectors:
        """pixels [n, 3, resolution, resolution], to unit vectors [n, dim]."""


class TextTower(nn.Module):
    """ids [n, length] to vectors [n, dim], not yet of length 1. Padding does not change them: the mask hides it."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.clip.encode_text(ids)
        return vectors


class ImageTower(nn.Module):
    """pixels uint8 [n, 3, r, r] to vectors [n, dim], not yet of length 1; cn_clip's scaling is inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.clip.encode_image((pixels.float() / 255 - self.mean) / self.std)
        return vectors


def unit(vectors: npt.NDArray[np.float32]) -> Vectors:
    """Rows scaled to length 1, in fp32 whatever the engine's precision."""
    wide = np.asarray(vectors, dtype=np.float32)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), dtype=np.float32)
