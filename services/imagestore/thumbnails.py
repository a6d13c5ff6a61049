"""Small pictures for result lists."""

from __future__ import annotations

import io

from PIL import Image

from services.common.errors import InvalidField
from services.common.pictures import decoding, open_picture

MEDIA_TYPE = "image/webp"


def make_thumbnail(data: bytes, *, side_pixels: int, max_pixels: int) -> bytes:
    """A WebP picture at most `side_pixels` long and high, upright; empty where the bytes are no picture."""
    try:
        opened = open_picture(data, max_bytes=len(data) + 1, max_pixels=max_pixels, field="image")
        with decoding("image"):
            opened.image.thumbnail((side_pixels, side_pixels), Image.Resampling.BICUBIC)
            file = io.BytesIO()
            opened.image.save(file, "WEBP", quality=80)
    except InvalidField:
        return b""
    return file.getvalue()


def thumbnail_size(data: bytes) -> tuple[int, int]:
    """Width and height of a thumbnail."""
    with Image.open(io.BytesIO(data)) as image:
        return image.size
