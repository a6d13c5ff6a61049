"""Good and bad images for the tests."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cli.sources import ChineseClipDataset, SourceImage

GALLERY = Path("demo/gallery/demo_imgs.tsv")


@cache
def gallery() -> tuple[SourceImage, ...]:
    """The demo's gallery: images that the demo model understands, with their captions."""
    return tuple(item for item in ChineseClipDataset(GALLERY) if isinstance(item, SourceImage))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def drawn(width: int = 120, height: int = 80) -> Image.Image:
    """An image without symmetry: each corner has its own colour."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2, height // 2), fill="red")
    draw.rectangle((width // 2, height // 2, width, height), fill="blue")
    draw.ellipse((width // 2, 0, width, height // 2), fill="green")
    return image


def noise(seed: int, side: int = 64) -> bytes:
    """An image that differs for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST))


def huge_png(side: int = 30_000) -> bytes:
    """A valid PNG of one bit per pixel, side x side, about a megabyte: 900 million pixels when decoded."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + bytes(-(-side // 8))
    compressor = zlib.compressobj(1)
    body = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    text = b"comment\0" + b"x" * max(0, 1_000_000 - len(body))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"tEXt", text) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def icon_of(png: bytes) -> bytes:
    """An ICO whose directory says 64 x 64 pixels, and which holds a larger image."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 64, 64, 0, 0, 1, 32, len(png), 22) + png
