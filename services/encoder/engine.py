"""The interface between the encoder and its two engines, which compute vectors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


class Engine(Protocol):
    """Computes on one device. At most one thread may compute texts, and one thread images.

    The two may compute at the same time. The operating system's scheduler shares a CPU's cores among them, and two
    streams share a GPU. So a text never waits for the images of an import.
    """

    name: str
    device: str
    precision: str
    # The factor that cn_clip multiplies cosine similarities with.
    logit_scale: float
    # The largest batches of texts and images that are faster than smaller ones on this device.
    text_batch: int
    image_batch: int

    def encode_texts(self, ids: Ids) -> Vectors:
        """ids [n, length], padded with 0, to unit vectors [n, dim]."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        """pixels [n, 3, resolution, resolution], to unit vectors [n, dim]."""


def unit(vectors: npt.NDArray[np.float32]) -> Vectors:
    """Rows scaled to length 1. Computed in fp32 in every precision of the engine."""
    wide = np.asarray(vectors, dtype=np.float32)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), dtype=np.float32)
