"""Image features before the image tower's last linear layer. The training on words changes only that layer."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from demo.artwork import GALLERY_MAKER, TRAINING_MAKERS, UNSEEN_MAKER
from demo.augment import augment
from demo.render import Artwork
from services.encoder.cn_clip_import import image_transform

AUGMENTED = 2  # of each maker
GALLERY_SHARE = 0.2
PART = 256


@contextmanager
def _without_projection(visual: Any) -> Iterator[None]:
    """An identity in the place of `attnpool.c_proj`. cn_clip reads its weight and bias, and never calls it."""
    attention = visual.attnpool
    kept = attention.c_proj
    identity = nn.Linear(kept.in_features, kept.in_features)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(kept.in_features))
        identity.bias.zero_()
    attention.c_proj = identity
    try:
        yield
    finally:
        attention.c_proj = kept


@torch.no_grad()
def features(model: Any, images: Tensor) -> Tensor:
    """float [n, 3, h, w], normalized, to float [n, features]."""
    model.eval()
    with _without_projection(model.visual):
        return torch.cat([model.encode_image(part) for part in torch.split(images, PART)])


def gallery_images(folder: Path, resolution: int) -> tuple[list[int], Tensor]:
    """The gallery's image ids and its images as the encoder prepares them."""
    transform = image_transform(resolution)
    ids, images = [], []
    for line in (folder / "demo_imgs.tsv").read_text(encoding="ascii").splitlines():
        image_id, content = line.split("\t")
        ids.append(int(image_id))
        images.append(transform(Image.open(io.BytesIO(base64.b64decode(content)))))
    return ids, torch.stack(images)


@dataclass(frozen=True)
class Shown:
    """Per maker: the features for the figures, float [concepts, features], and which concepts exist."""

    features: dict[str, Tensor]
    exists: dict[str, Tensor]

    @classmethod
    def compute(cls, model: Any, artwork: Artwork, gallery: Tensor) -> Shown:
        """`gallery`: images of the gallery's maker as the encoder prepares them. The others are rendered cleanly."""
        resolution = model.visual.input_resolution
        makers = ("twemoji", UNSEEN_MAKER)
        found = {maker: features(model, artwork.clean(maker, resolution)) for maker in makers}
        return cls({GALLERY_MAKER: features(model, gallery), **found}, artwork.exists)


class Bank:
    """Features of every concept: the gallery's image, and each training maker's under random placement and colour."""

    def __init__(self, gallery: Tensor, others: list[Tensor]) -> None:
        """Each tensor: float [concepts, features]."""
        self._gallery = gallery
        self._others = others

    @classmethod
    def compute(cls, model: Any, artwork: Artwork, gallery: Tensor, generator: torch.Generator) -> Bank:
        """`gallery`: its features, in the order of the concepts. They stand in for concepts that a maker lacks."""
        others = []
        for maker in TRAINING_MAKERS:
            for _ in range(AUGMENTED):
                parts = torch.split(artwork.images[maker], PART)
                found = [features(model, augment(part, model.visual.input_resolution, generator)) for part in parts]
                others.append(torch.where(artwork.exists[maker][:, None], torch.cat(found), gallery))
        return cls(gallery, others)

    def draw(self, rng: random.Random) -> Tensor:
        """float [concepts, features], of one maker."""
        return self._gallery if rng.random() < GALLERY_SHARE else rng.choice(self._others)
