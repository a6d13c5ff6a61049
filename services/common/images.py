"""Opens images from hostile bytes: for the encoder, and for the image store's thumbnails.

Needs Pillow, which the services that use this module install.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from services.common.errors import ImageTooLarge, UnreadableImage, WentuError
from services.common.image_formats import FORMATS, HEAD_BYTES, MEDIA_TYPES, image_format
from services.common.image_repair import repaired

Result = TypeVar("Result")
WHITE = (255, 255, 255, 255)
MAX_16_BITS = 65_535
# If the brightest value of a float image is at least this, its range is 0..255.
MIN_BRIGHT = 16
# Pillow needs 4 bytes for each colour pixel, and `to_rgb` makes up to four images of the whole size.
PIXEL_BYTES = 4
# Memory of decoders beside the image, in bytes per pixel: whole canvases, or coefficients of a progressive JPEG.
DECODER_BYTES = {"WEBP": 12, "AVIF": 12, "JPEG2000": 12}
PROGRESSIVE_BYTES = 6
# The limit is an argument and is checked below. Pillow's own limit would only warn.
Image.MAX_IMAGE_PIXELS = None
Image.init()  # registers all formats, since Pillow refuses names of formats that are not registered
# The extra `heic` brings it.
with suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)

# Pillow's names of what may be opened here: a format whose extra is not installed is not among them.
DECODERS = tuple(name for form in FORMATS for name in form.decoders if name in Image.OPEN)


@dataclass(frozen=True)
class OpenedImage:
    """`image` is RGB and upright. `media_type` comes from the bytes."""

    image: Image.Image
    media_type: str


@contextmanager
def decoding(field: str) -> Iterator[None]:
    """Turns every error of Pillow on damaged bytes into UnreadableImage or ImageTooLarge with the name `field`."""
    try:
        yield
    except WentuError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(field, "is not an image of a known format") from error
    except MemoryError as error:
        raise ImageTooLarge(field, "does not fit in memory") from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UnreadableImage(field, f"cannot be decoded: {error}") from error


def open_image(
    data: bytes, *, max_bytes: int, max_pixels: int, field: str, claim: Callable[[int], None] | None = None
) -> OpenedImage:
    """Decode an image, apply the EXIF orientation, and convert it to RGB. Sizes are checked before decoding.

    `claim` is called before decoding, with the most bytes that decoding can take. Raises ImageTooLarge or
    UnreadableImage with the name `field`.
    """

    def read(file: bytes) -> OpenedImage:
        with opened(file, max_bytes=max_bytes, max_pixels=max_pixels, field=field) as image:
            if claim is not None:
                claim(decoding_bytes(image))
            image.load()  # so that later errors are not errors of the decoding
            make_upright(image)
            return OpenedImage(to_rgb(image), MEDIA_TYPES[image.format or ""])

    return repairing(data, max_pixels, read)


def repairing(data: bytes, max_pixels: int, read: Callable[[bytes], Result]) -> Result:
    """The result of `read` on a file. If that raises UnreadableImage, the result on the repaired file."""
    try:
        return read(data)
    except UnreadableImage:
        if (better := repaired(data, max_pixels)) is None:
            raise
    return read(better)


@contextmanager
def opened(data: bytes, *, max_bytes: int, max_pixels: int, field: str) -> Iterator[Image.Image]:
    """An image of which only the header is read. Raises ImageTooLarge or UnreadableImage with the name `field`."""
    if not data:
        raise UnreadableImage(field, "holds no bytes")
    if len(data) > max_bytes:
        raise ImageTooLarge(field, f"has {len(data):,} bytes; the limit is {max_bytes:,}")
    form = image_format(data[:HEAD_BYTES])
    if form is not None and form.extra and not set(form.decoders) & set(DECODERS):
        raise UnreadableImage(
            field, f"is {form.name}, which the services read with the extra {form.extra}: pip install '.[{form.extra}]'"
        )
    with decoding(field), Image.open(io.BytesIO(data), formats=DECODERS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageTooLarge(field, f"has {width:,} x {height:,} pixels; the limit is {max_pixels:,} in all")
        yield image


def make_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation as browsers do. Broken EXIF and XMP are ignored."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(key, None)
    with suppress(Exception):  # Pillow's EXIF reader raises many kinds
        ImageOps.exif_transpose(image, in_place=True)


def decoding_bytes(image: Image.Image) -> int:
    """The most bytes that decoding and `to_rgb` hold at once, computed from the image's header."""
    plain = image.mode in ("RGB", "L") and not image.has_transparency_data
    pixel_bytes = PIXEL_BYTES * (2 if plain else 4) + decoder_pixel_bytes(image)
    return image.width * image.height * pixel_bytes


def decoder_pixel_bytes(image: Image.Image) -> int:
    """Memory of the decoder beside the image, in bytes per pixel of the file."""
    progressive = image.format in ("JPEG", "MPO") and "progressive" in image.info
    return PROGRESSIVE_BYTES if progressive else DECODER_BYTES.get(image.format or "", 0)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: transparency on white, deeper values scaled to 8 bits, the first frame of an animation.

    Raises ValueError for values of no known range.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        image.load()
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image)
        scaled = values.astype(np.float32) / np.float32(_step(values))
        return Image.fromarray(np.round(scaled, out=scaled).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _step(values: npt.NDArray[Any]) -> float:
    """1/255 of the range of the values of one channel: 0..1, 0..255 or 0..65535.

    Raises ValueError if no range fits, and for floats slightly above 1: they may be highlights of 0..1 or dark pixels
    of 0..255, and a wrong guess would not be noticed.
    """
    least, most = float(values.min()), float(values.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError("it has values that are not finite numbers")
    if least < 0 or most > MAX_16_BITS:
        raise ValueError(f"its values go from {least:g} to {most:g}: known are 0 to 1, 0 to 255 and 0 to {MAX_16_BITS}")
    if values.dtype.kind == "f" and most <= 1:
        return 1 / 255
    if values.dtype.kind == "f" and most < MIN_BRIGHT:
        raise ValueError(f"its values go up to {most:g}, which is neither of 0 to 1 nor of 0 to 255")
    return 1.0 if most <= 255 else MAX_16_BITS / 255
