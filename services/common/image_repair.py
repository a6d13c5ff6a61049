"""Repairs files that image libraries refuse although their pixels are good. Browsers show such files too.

Both repairs run only after a file was refused, and they decompress only pixels.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
END_OF_JPEG = b"\xff\xd9"
# A JPEG without its end is accepted if at least this share of its pixels comes from the file's own bytes.
MIN_DECODED_SHARE = 0.95
# The chunks that pixels need. Text, colour profiles and the frames of an animation are removed.
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_SCAN, _PROGRESSIVE_FRAME = 0xDA, 0xC2
_FRAMES = frozenset({0xC0, 0xC1, _PROGRESSIVE_FRAME})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})


def repaired(data: bytes, max_pixels: int) -> bytes | None:
    """A file with the same pixels that a decoder accepts. None if there is no repair."""
    if data.startswith(PNG_SIGNATURE):
        return repaired_png(data)
    if data.startswith(JPEG_SIGNATURE):
        return repaired_jpeg(data, max_pixels)
    return None


def repaired_png(data: bytes) -> bytes | None:
    """The PNG without chunks that do not affect pixels, which may be large or broken, and with an end chunk.

    None if a chunk of pixels has a wrong checksum, since its pixels are damaged.
    """
    parts = [PNG_SIGNATURE]
    for kind, body, checksum in _png_chunks(data):
        if kind not in _PNG_KEPT:
            continue
        if checksum != zlib.crc32(kind + body):
            return None
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum))
    return b"".join([*parts, struct.pack(">I", 0), b"IEND", struct.pack(">I", zlib.crc32(b"IEND"))])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Kind, body and checksum of each complete chunk, up to the file's end."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind == b"IEND" or at + 12 + size > len(data):
            return
        yield kind, data[at + 8 : at + 8 + size], struct.unpack_from(">I", data, at + 8 + size)[0]
        at += 12 + size


def repaired_jpeg(data: bytes, max_pixels: int) -> bytes | None:
    """The JPEG with an end marker, if nearly all pixels exist (MIN_DECODED_SHARE). Otherwise None.

    The decoder fills missing pixels silently. So the file is decoded with two different continuations: pixels that
    differ come from the continuation. A progressive file must contain its finest details.
    """
    if not _has_fine_scan(data):
        return None
    data = data[:-1] if data.endswith(b"\xff") else data  # half a marker
    ended = data + END_OF_JPEG
    # Without 0xFF, which would begin a marker.
    noise = bytes(random.Random(1).choices(range(255), k=4096))
    try:
        first, second = (_pixels(each, max_pixels) for each in (ended, data + noise + END_OF_JPEG))
    except Exception:  # Pillow's decoders raise many kinds
        return None
    if first is None or second is None:
        return None
    same = np.all(first == second, axis=-1).mean() if first.ndim == 3 else (first == second).mean()
    return ended if same >= MIN_DECODED_SHARE else None


def _pixels(data: bytes, max_pixels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.asarray(image) if image.width * image.height <= max_pixels else None


def _has_fine_scan(data: bytes) -> bool:
    """Whether a scan with the finest details of the first component (brightness) has started.

    Only a progressive file has several scans per component.
    """
    progressive, first = False, b""
    for marker, body in _jpeg_segments(data):
        if marker in _FRAMES:
            progressive, first = marker == _PROGRESSIVE_FRAME, body[6:7]
        elif marker == _SCAN and len(body) >= 6:
            components = body[1 : 1 + 2 * body[0] : 2]
            last_coefficient, bits_left = body[-2], body[-1] & 15
            if not progressive or (first in components and (last_coefficient, bits_left) == (63, 0)):
                return True
    return False


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment. Entropy-coded data between segments is skipped."""
    at = data.find(b"\xff", 2)
    while 0 <= at < len(data) - 3:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0 or marker in _WITHOUT_LENGTH:
            at = data.find(b"\xff", at + 2)
        else:
            (size,) = struct.unpack_from(">H", data, at + 2)
            yield marker, data[at + 4 : at + 2 + size]
            at = data.find(b"\xff", at + 2 + size)
