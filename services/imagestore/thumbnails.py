"""Small pictures for result lists."""

from __future__ import annotations

import io

from PIL import Image

from services.common.errors import InvalidField
from services.common.pictures import decoding, open_picture

QUALITY = 80


def make_thumbnail(data: bytes, *, side_pixels: int, max_pixels: int, form: str) -> bytes:
    """A WebP or JPEG at most `side_pixels` long and high, upright; empty where the bytes are no picture."""
    try:
        opened = open_picture(data, max_bytes=len(data) + 1, max_pixels=max_pixels, field="image")
        with decoding("image"):
            opened.image.thumbnail((side_pixels, side_pixels), Image.Resampling.BICUBIC)
            file = io.BytesIO()
            opened.image.save(file, form, quality=QUALITY)
    except InvalidField:
        return b""
    return file.getvalue()


def describe_thumbnail(data: bytes) -> tuple[str, int, int]:
    """Media type, width and height of a thumbnail, which may be older than the settings."""
    with Image.open(io.BytesIO(data)) as image:
        return Image.MIME[image.format or ""], *image.size
