"""What computes vectors: the seam between the encoder and its two engines."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


class Engine(Protocol):
    """Computes on one device. Not for several threads at once, except one for texts and one for images.

    The two may compute at the same time and share the device as it shares itself: a CPU's cores by the operating
    system's scheduler, a GPU by the streams of the two. So a text never waits for the images of an import.
    """

    name: str
    device: str
    precision: str
    # What cn_clip multiplies cosine similarities by.
    logit_scale: float
    # How many texts and images are worth computing together here.
    text_batch: int
    image_batch: int

    def encode_texts(self, ids: Ids) -> Vectors:
        """ids [n, length], padded with 0, to unit vectors [n, dim]."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        """pixels [n, 3, resolution, resolution], to unit vectors [n, dim]."""


def unit(vectors: npt.NDArray[np.float32]) -> Vectors:
    """Rows scaled to length 1, in fp32 whatever the engine's precision."""
    wide = np.asarray(vectors, dtype=np.float32)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), dtype=np.float32)
