"""Image formats: the signatures of their first bytes, and the endings of their file names.

The content decides the format. An ending only shows that a person means an image. Needs no image library.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

# The bytes that every signature needs at most.
HEAD_BYTES = 64

_SIGNATURES = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    # The reserved bytes and the header's size distinguish a bitmap from a text that begins with BM.
    ("BMP", re.compile(rb"BM.{4}\0{4}.{4}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0{3}", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("PPM", re.compile(rb"P[1-6]\s+(#|\d+\s)")),
    ("JPEG 2000", re.compile(rb"\0{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("AVIF", re.compile(rb".{4}ftypavi[fs]", re.DOTALL)),
    ("HEIC", re.compile(rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)),
)
# fmt: off
IMAGE_ENDINGS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif",
})
# Raw files of cameras have TIFF's signature, but an image library finds only a small preview in them.
RAW_ENDINGS = frozenset({
    ".nef", ".nrw", ".dng", ".cr2", ".arw", ".sr2", ".srf", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc", ".dcr",
})
# fmt: on


def image_format(head: bytes) -> str:
    """The name of the format of a file with these first bytes. Empty if it is not a format that we read."""
    return next((name for name, signature in _SIGNATURES if signature.match(head)), "")


def ending(name: str) -> str:
    """The ending of a file's name with its dot, in lower case; empty if there is none."""
    return PurePosixPath(name).suffix.lower()


def may_be_image(name: str, head: bytes) -> bool:
    """Whether a file counts as an image.

    A file with an image's ending always counts, since its owner expects an error if it is not an image.
    """
    if ending(name) in RAW_ENDINGS:
        return False
    return bool(image_format(head)) or ending(name) in IMAGE_ENDINGS
