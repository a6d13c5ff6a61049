"""Every maker's pictures as tensors, rendered once and kept."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.artwork import TRAINING_MAKERS, UNSEEN_MAKER, Maker, render_all
from demo.augment import normalize
from demo.concepts import Concept

RENDER_PIXELS = 80


class Artwork:
    """Every maker's pictures of every concept, uint8 [concepts, 4, h, w], and which of them exist."""

    def __init__(self, node_modules: Path, cache: Path, concepts: list[Concept]) -> None:
        self.pictures: dict[str, Tensor] = {}
        for name in (*TRAINING_MAKERS, UNSEEN_MAKER):
            path = cache / f"{name}-{RENDER_PIXELS}.pt"
            if not path.exists():
                cache.mkdir(parents=True, exist_ok=True)
                rendered = render_all(Maker(node_modules, name), [c.image_id for c in concepts], RENDER_PIXELS)
                torch.save(torch.from_numpy(rendered).permute(0, 3, 1, 2).contiguous(), path)
            self.pictures[name] = torch.load(path)
        self.exists = {name: pictures[:, 3].flatten(1).ne(0).any(1) for name, pictures in self.pictures.items()}

    def sample(self, rows: list[int], rng: random.Random) -> Tensor:
        """One picture of each concept, of a random training maker that has it."""
        return torch.stack(
            [self.pictures[rng.choice([m for m in TRAINING_MAKERS if self.exists[m][row]])][row] for row in rows]
        )

    def clean(self, maker: str, resolution: int) -> Tensor:
        """A maker's pictures on white with a small margin, as the gallery shows them."""
        rgba = F.pad(self.pictures[maker].float() / 255, [round(RENDER_PIXELS * 0.06)] * 4)
        rgb = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
        return normalize(
            F.interpolate(rgb, size=resolution, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        )
