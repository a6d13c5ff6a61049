"""Turns a file's bytes into the pixels that the model sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.common.images import open_image


@dataclass(frozen=True)
class DecodedImage:
    """`pixels`: uint8 [3, resolution, resolution], RGB. `width` and `height`: of the file, orientation applied."""

    pixels: npt.NDArray[np.uint8]
    media_type: str
    width: int
    height: int


def read_image_file(
    data: bytes,
    resolution: int,
    *,
    max_bytes: int,
    max_pixels: int,
    field: str,
    claim: Callable[[int], None] | None = None,
) -> DecodedImage:
    """Open and resize an image as cn_clip does (cn_clip/clip/utils.py, image_transform): to a square, bicubic, no crop.

    `claim` is called before decoding, with the most bytes that decoding can take. Raises ImageTooLarge or
    UnreadableImage with the name `field`.
    """
    opened = open_image(data, max_bytes=max_bytes, max_pixels=max_pixels, field=field, claim=claim)
    small = opened.image.resize((resolution, resolution), Image.Resampling.BICUBIC)
    return DecodedImage(np.asarray(small).transpose(2, 0, 1), opened.media_type, *opened.image.size)
