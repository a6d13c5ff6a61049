"""What a browser shows, we take; damage in the pixels is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from services.common.errors import ImageTooLarge, UnreadableImage
from services.common.images import DECODERS, open_image
from tests.support.images import encoded


def photo(width: int = 240, height: int = 180) -> Image.Image:
    """Smooth colours with some noise, so that each block of a JPEG has bits of its own."""
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(1).integers(0, 40, (height, width, 3))
    pixels = np.stack([rows, columns, rows + columns], axis=-1) % 200 + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def opened(data: bytes) -> Image.Image:
    return open_image(data, max_bytes=1 << 24, max_pixels=64_000_000, field="image").image


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body) if checksum is None else checksum)
    )


PNG = encoded(photo())
AFTER_HEADER, END = 33, len(PNG) - 12
LARGE_TEXT = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node " * 300_000))
LARGE_PROFILE = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000)))


@pytest.mark.parametrize(
    "data",
    [
        PNG[:AFTER_HEADER] + LARGE_TEXT + PNG[AFTER_HEADER:],
        PNG[:END] + LARGE_TEXT + PNG[END:],
        PNG[:AFTER_HEADER] + LARGE_PROFILE + PNG[AFTER_HEADER:],
        PNG[:AFTER_HEADER] + chunk(b"gAMA", b"\0\0\xb1\x8f", checksum=1) + PNG[AFTER_HEADER:],
        PNG[:AFTER_HEADER] + chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03") + PNG[AFTER_HEADER:],
        PNG[:END],
        PNG[:-4],
    ],
    ids=["text", "text after the pixels", "profile", "checksum", "exif", "no end", "half an end"],
)
def test_a_png_with_good_pixels(data: bytes) -> None:
    assert opened(data).tobytes() == photo().tobytes()


def test_a_png_with_damaged_pixels() -> None:
    at = len(PNG) // 2
    for data in (PNG[:at], PNG[:at] + b"\0\0\0\0" + PNG[at + 4 :], PNG[: END - 400]):
        with pytest.raises(UnreadableImage):
            opened(data)


JPEG = encoded(photo(), "JPEG", quality=90)
PROGRESSIVE = encoded(photo(), "JPEG", quality=90, progressive=True)


@pytest.mark.parametrize("cut", [1, 2, 5, 60])
def test_a_jpeg_without_its_last_bytes(cut: int) -> None:
    whole = np.asarray(opened(JPEG), dtype=int)
    same = np.abs(np.asarray(opened(JPEG[:-cut]), dtype=int) - whole).max(axis=-1) == 0
    assert same.mean() > 0.95
    assert same[:160].all()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.9])
def test_a_jpeg_without_many_of_its_bytes_is_refused(share: float) -> None:
    for data in (JPEG, PROGRESSIVE):
        with pytest.raises(UnreadableImage):
            opened(data[: int(len(data) * share)])


def test_a_progressive_jpeg_without_its_end() -> None:
    assert opened(PROGRESSIVE[:-2]).tobytes() == opened(PROGRESSIVE).tobytes()
    # Its last scan has not begun: what is there is coarse.
    with pytest.raises(UnreadableImage):
        opened(PROGRESSIVE[: PROGRESSIVE.index(b"\xff\xda", PROGRESSIVE.index(b"\xff\xda") + 2)])


def exif(payload: bytes) -> bytes:
    return JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + JPEG[2:]


@pytest.mark.parametrize(
    "payload",
    [
        b"Exif\0\0",
        b"Exif\0\0Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0",
        b"Exif\0\0" + b"\0\x08\0\x02\x01\x12\0\x03" * 3,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
        # Browsers turn an image by EXIF alone.
        b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:RDF tiff:Orientation="6"',
    ],
)
def test_broken_metadata_turns_nothing(payload: bytes) -> None:
    assert opened(exif(payload)).tobytes() == opened(JPEG).tobytes()


def test_exif_turns() -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6
    assert opened(encoded(photo(), "JPEG", exif=orientation.tobytes())).size == (180, 240)
    assert opened(encoded(photo(), "PNG", exif=orientation.tobytes())).size == (180, 240)


def test_content_decides_and_what_follows_is_left() -> None:
    for form, options in (("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"progressive": True})):
        image = photo().convert("CMYK") if form == "JPEG" else photo()
        assert opened(encoded(image, form, **options) + b"motion photo follows" * 500).size == photo().size


def test_shapes_and_animations() -> None:
    for width, height in ((1, 1), (60_000, 1), (1, 60_000)):
        assert opened(encoded(Image.new("RGB", (width, height), "red"))).size == (width, height)
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue")]
        first = opened(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
        red, _, blue = first.getpixel((8, 6))  # type: ignore[misc]
        assert (red > 200, blue < 50) == (True, True), form


@pytest.mark.parametrize(("mode", "options"), [("1", {"compression": "group4"}), ("LAB", {}), ("CMYK", {}), ("L", {})])
def test_modes_show_the_same(mode: str, options: dict[str, str]) -> None:
    found = np.asarray(opened(encoded(photo().convert(mode), "TIFF", **options)), dtype=int)
    wanted = np.asarray(photo().convert(mode).convert("RGB"), dtype=int)
    assert np.abs(found - wanted).max() <= 1


def test_limits_hold_in_repairs() -> None:
    for data in (PNG[:END], JPEG[:-2]):
        with pytest.raises(ImageTooLarge):
            open_image(data, max_bytes=1 << 24, max_pixels=240 * 180 - 1, field="image")


def test_heic() -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    if "HEIF" not in DECODERS:
        with pytest.raises(UnreadableImage, match=r"is HEIC, which the services read with the extra heic"):
            opened(head + bytes(100))
        return
    file = io.BytesIO()
    photo().save(file, "HEIF")
    got = open_image(file.getvalue(), max_bytes=1 << 24, max_pixels=64_000_000, field="image")
    assert (got.image.size, got.media_type) == ((240, 180), "image/heif")
