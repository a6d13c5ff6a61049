"""Opening pictures from hostile bytes: for the encoder, which looks at them, and the image store, which shrinks them.

Needs Pillow, which the rooms that use this module install.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from services.common.errors import ImageTooLarge, UnreadableImage, WentuError
from services.common.image_formats import HEAD_BYTES, image_format
from services.common.image_repair import repaired

# JPEG includes MPO, which phones write. Pillow also reads formats that start other programs (EPS), that are no pictures
# (PDF, MPEG), or that hide a second picture of any size behind the size they tell (ICO): not here.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
MEDIA_TYPES = {"MPO": "image/jpeg", "DIB": "image/bmp"}
WHITE = (255, 255, 255, 255)
# The limit is an argument and is checked below; Pillow's own would warn first.
Image.MAX_IMAGE_PIXELS = None
Image.init()  # registers all formats: naming one that is not yet registered is an error
# The extra `heic` brings it. Its wheel holds 27 MB of codecs, one of them under the GPL: not in the base.
with suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    FORMATS = (*FORMATS, "HEIF")


@dataclass(frozen=True)
class OpenPicture:
    """`image`: RGB, upright. `media_type` as found in the bytes."""

    image: Image.Image
    media_type: str


@contextmanager
def decoding(field: str) -> Iterator[None]:
    """Whatever Pillow raises on damaged bytes, as UnreadableImage or ImageTooLarge naming `field`."""
    try:
        yield
    except WentuError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(field, "is not a picture of a known format") from error
    except MemoryError as error:
        raise ImageTooLarge(field, "does not fit in memory") from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UnreadableImage(field, f"cannot be decoded: {error}") from error


def open_picture(data: bytes, *, max_bytes: int, max_pixels: int, field: str) -> OpenPicture:
    """Decode, apply the EXIF orientation, convert to RGB. Sizes are checked before anything is decoded.

    Raises ImageTooLarge or UnreadableImage, naming `field`.
    """
    if not data:
        raise UnreadableImage(field, "holds no bytes")
    if len(data) > max_bytes:
        raise ImageTooLarge(field, f"has {len(data):,} bytes; the limit is {max_bytes:,}")
    if "HEIF" not in FORMATS and image_format(data[:HEAD_BYTES]) == "HEIC":
        raise UnreadableImage(field, "is HEIC, which the services read with the extra heic: pip install '.[heic]'")
    try:
        return _open(data, max_pixels, field)
    except UnreadableImage:
        if (better := repaired(data, max_pixels)) is None:
            raise
        return _open(better, max_pixels, field)


def _open(data: bytes, max_pixels: int, field: str) -> OpenPicture:
    with decoding(field), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageTooLarge(field, f"has {width:,} x {height:,} pixels; the limit is {max_pixels:,} in all")
        media_type = MEDIA_TYPES.get(image.format or "") or Image.MIME.get(image.format or "", "")
        image.load()  # so that what follows fails for its own reasons alone
        return OpenPicture(to_rgb(_upright(image)), media_type)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says, as browsers do: broken EXIF says nothing, and neither does XMP."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(key, None)
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow's EXIF reader raises many kinds
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: transparency on white, 16 bits scaled to 8, the first frame of an animation."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.copy()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        scale = 257.0 if image.mode != "F" and values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(values / scale, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")
