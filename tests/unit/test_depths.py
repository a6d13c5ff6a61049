"""Images of one channel in every depth: what they show is the same, and what has no known range is refused."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from services.common.errors import UnreadableImage
from services.common.images import open_image, to_rgb
from tests.support.images import encoded

SCENE = np.linspace(0, 255, 64).round().reshape(8, 8)


def opened(data: bytes) -> npt.NDArray[Any]:
    found = open_image(data, max_bytes=10**6, max_pixels=10**6, field="image").image
    assert found.mode == "RGB"
    return np.asarray(found)[:, :, 0]


def tiff(values: npt.NDArray[Any]) -> bytes:
    return encoded(Image.fromarray(values), "TIFF")


def signed_16_tiff(values: npt.NDArray[Any]) -> bytes:
    """An uncompressed little-endian TIFF of int16, which Pillow reads and does not write."""
    height, width = values.shape
    body = values.astype("<i2").tobytes()
    entries = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(body)),
        (339, 2),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(entries)) + directory + bytes(4)


SAME = {
    "float 0..1": tiff((SCENE / 255).astype(np.float32)),
    "float 0..255": tiff(SCENE.astype(np.float32)),
    "float 0..65535": tiff((SCENE * 257).astype(np.float32)),
    "int32 0..255": tiff(SCENE.astype(np.int32)),
    "int32 0..65535": tiff((SCENE * 257).astype(np.int32)),
    "uint16": tiff((SCENE * 257).astype(np.uint16)),
    "uint16 PNG": encoded(Image.fromarray((SCENE * 257).astype(np.uint16))),
    "signed 16": signed_16_tiff(SCENE),
}


@pytest.mark.parametrize("name", SAME)
def test_every_depth_shows_the_same(name: str) -> None:
    assert opened(SAME[name]) == pytest.approx(SCENE, abs=0.5)


def test_big_endian_16_bits() -> None:
    image = Image.frombytes("I;16B", (8, 8), (SCENE * 257).astype(">u2").tobytes())
    assert np.asarray(to_rgb(image))[:, :, 0] == pytest.approx(SCENE, abs=0.5)


def test_16_bits_are_rounded_as_they_were() -> None:
    """Stored vectors were made from these pixels."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    wanted = np.clip(values.astype(np.float32) / 257.0, 0, 255).round().astype(np.uint8)
    assert (np.asarray(to_rgb(Image.fromarray(values)))[:, :, 0] == wanted).all()


REFUSED = {
    "negative floats": (SCENE / 255 - 0.5, np.float32, "its values go from -0.5 to 0.5"),
    "a little over 1": (SCENE / 200, np.float32, "go up to 1.275, which is neither"),
    "not a number": (np.where(SCENE == 255, np.nan, SCENE), np.float32, "not finite numbers"),
    "infinite": (np.where(SCENE == 255, np.inf, SCENE), np.float32, "not finite numbers"),
    "beyond 16 bits": (SCENE * 1000, np.int32, "go from 0 to 255000"),
    "negative int32": (SCENE - 100, np.int32, "go from -100 to 155"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_known_range_is_refused(name: str) -> None:
    values, kind, problem = REFUSED[name]
    with pytest.raises(UnreadableImage, match=rf"image: cannot be decoded: .*{problem}"):
        opened(tiff(values.astype(kind)))


def test_negative_signed_16_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="go from -100 to 155"):
        opened(signed_16_tiff(SCENE - 100))


def test_a_black_image_is_black_in_every_depth() -> None:
    for kind in (np.float32, np.int32, np.uint16):
        assert not opened(tiff(np.zeros((4, 4), dtype=kind))).any()
    assert Image.open(io.BytesIO(tiff(np.zeros((4, 4), dtype=np.float32)))).mode == "F"
