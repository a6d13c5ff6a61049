"""Small images for result lists."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image

from services.common.errors import InvalidField
from services.common.images import (
    PIXEL_BYTES,
    decoder_pixel_bytes,
    decoding_bytes,
    make_upright,
    opened,
    repairing,
    to_rgb,
)

QUALITY = 80
# Images in these modes are reduced first and converted afterwards. Others would look worse and are converted first.
_SHRINKABLE = ("RGB", "RGBA", "L", "LA")


def make_thumbnail(
    data: bytes, *, side_pixels: int, max_pixels: int, form: str, claim: Callable[[int], None] | None = None
) -> bytes:
    """An upright WebP or JPEG, at most `side_pixels` wide and high. Empty if the bytes are not an image.

    `claim` is called before decoding, with the most bytes that decoding can take.
    """
    side = (side_pixels, side_pixels)

    def shrink(readable: bytes) -> bytes:
        with opened(readable, max_bytes=len(readable), max_pixels=max_pixels, field="image") as image:
            decoder_bytes = image.width * image.height * decoder_pixel_bytes(image)
            # A JPEG is decoded at 1/8, 1/4 or 1/2 of its size, if that is at least twice the size of the thumbnail.
            image.draft(None, (2 * side_pixels, 2 * side_pixels))
            shrinkable = image.mode in _SHRINKABLE and "transparency" not in image.info
            if claim is not None:
                pixels = image.width * image.height
                claim(decoder_bytes + (2 * PIXEL_BYTES * pixels if shrinkable else decoding_bytes(image)))
            if shrinkable:
                image.thumbnail(side, Image.Resampling.BICUBIC)
            make_upright(image)
            small = to_rgb(image)
            small.thumbnail(side, Image.Resampling.BICUBIC)  # has no effect if the image was reduced before
            file = io.BytesIO()
            small.save(file, form, quality=QUALITY)
            return file.getvalue()

    try:
        return repairing(data, max_pixels, shrink)
    except InvalidField:
        return b""


def describe_thumbnail(data: bytes) -> tuple[str, int, int]:
    """Media type, width and height of a stored thumbnail. It may be older than the current settings."""
    with Image.open(io.BytesIO(data)) as image:
        return Image.MIME[image.format or ""], *image.size
