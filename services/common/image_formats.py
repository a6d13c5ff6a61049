"""The image formats that the services read: the only table of them.

It has the signature of a file's first bytes, the endings of names, the media types, and what decodes each format.

The content decides the format. An ending only shows that a person means an image. Needs no image library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

# The bytes that every signature needs at most.
HEAD_BYTES = 64


@dataclass(frozen=True)
class ImageFormat:
    """A format that the services read.

    `endings` are those of file names. Names that we make use the first one. `decoders` are Pillow's names of the
    formats that such a file may have. `extra` is the extra that installs its decoder, if it is not in the base.
    """

    name: str
    media_type: str
    endings: tuple[str, ...]
    signature: re.Pattern[bytes]
    decoders: tuple[str, ...]
    extra: str = ""


# Pillow also reads formats that start other programs (EPS), that are not images (PDF, MPEG), or whose header gives a
# wrong size (ICO). They are refused here.
FORMATS = (
    # Phones write MPO: a JPEG with more images behind it.
    ImageFormat(
        "JPEG", "image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), re.compile(rb"\xff\xd8\xff"), ("JPEG", "MPO")
    ),
    ImageFormat("PNG", "image/png", (".png", ".apng"), re.compile(rb"\x89PNG\r\n\x1a\n"), ("PNG",)),
    ImageFormat("GIF", "image/gif", (".gif",), re.compile(rb"GIF8[79]a"), ("GIF",)),
    ImageFormat("WebP", "image/webp", (".webp",), re.compile(rb"RIFF....WEBP", re.DOTALL), ("WEBP",)),
    ImageFormat(
        "BMP",
        "image/bmp",
        (".bmp", ".dib"),
        # The reserved bytes and the header's size distinguish a bitmap from a text that begins with BM.
        re.compile(rb"BM.{4}\0{4}.{4}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0{3}", re.DOTALL),
        ("BMP", "DIB"),
    ),
    ImageFormat("TIFF", "image/tiff", (".tif", ".tiff"), re.compile(rb"II[*+]\0|MM\0[*+]"), ("TIFF",)),
    ImageFormat(
        "PPM",
        "image/x-portable-anymap",
        (".pnm", ".ppm", ".pgm", ".pbm"),
        re.compile(rb"P[1-6]\s+(#|\d+\s)"),
        ("PPM",),
    ),
    ImageFormat(
        "JPEG 2000",
        "image/jp2",
        (".jp2", ".j2k", ".jpx"),
        re.compile(rb"\0{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("JPEG2000",),
    ),
    ImageFormat("AVIF", "image/avif", (".avif",), re.compile(rb".{4}ftypavi[fs]", re.DOTALL), ("AVIF",)),
    # Its decoder is an extra, since the wheel holds 27 MB of codecs, one of them under the GPL.
    ImageFormat(
        "HEIC",
        "image/heif",
        (".heic", ".heif"),
        re.compile(rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL),
        ("HEIF",),
        extra="heic",
    ),
)
IMAGE_ENDINGS = frozenset(ending for form in FORMATS for ending in form.endings)
# By the names that Pillow has for what it opened.
MEDIA_TYPES = {decoder: form.media_type for form in FORMATS for decoder in form.decoders}
# Raw files of cameras have TIFF's signature, but an image library finds only a small preview in them.
# fmt: off
RAW_ENDINGS = frozenset({
    ".nef", ".nrw", ".dng", ".cr2", ".arw", ".sr2", ".srf", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc", ".dcr",
})
# fmt: on


def image_format(head: bytes) -> ImageFormat | None:
    """The format of a file with these first bytes. None if it is not a format that we read."""
    return next((form for form in FORMATS if form.signature.match(head)), None)


def ending_for(media_type: str) -> str:
    """The ending of file names of this type, with its dot. Empty if it is not a format that we read."""
    return next((form.endings[0] for form in FORMATS if form.media_type == media_type), "")


def ending(name: str) -> str:
    """The ending of a file's name with its dot, in lower case; empty if there is none."""
    return PurePosixPath(name).suffix.lower()


def may_be_image(name: str, head: bytes) -> bool:
    """Whether a file counts as an image.

    A file with an image's ending always counts, since its owner expects an error if it is not an image.
    """
    if ending(name) in RAW_ENDINGS:
        return False
    return image_format(head) is not None or ending(name) in IMAGE_ENDINGS
