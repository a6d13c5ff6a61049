"""The two towers of cn_clip's CLIP module as separate modules. They take the encoder's inputs and return vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MEAN = (0.48145466, 0.4578275, 0.40821073)  # cn_clip/clip/utils.py, image_transform
STD = (0.26862954, 0.26130258, 0.27577711)


class TextTower(nn.Module):
    """Takes ids [n, length]. Returns vectors [n, dim], not yet of length 1. The mask hides padding."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.clip.encode_text(ids)
        return vectors


class ImageTower(nn.Module):
    """Takes pixels uint8 [n, 3, r, r]. Returns vectors [n, dim], not yet of length 1. Normalizes as cn_clip."""

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
