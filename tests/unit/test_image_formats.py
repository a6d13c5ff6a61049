"""The table of image formats, and what follows from it: the contract, what Pillow opens, file endings, snapshots."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from gateway.maintenance.snapshots.layout import MEMBER
from services.common.image_formats import FORMATS, HEAD_BYTES, ImageFormat, ending_for, image_format, may_be_image
from services.common.images import DECODERS, open_image
from tests.support.images import drawn, encoded
from tests.unit.test_contract_limits import PROTOS

IN_THE_BASE = [form for form in FORMATS if not form.extra]


@pytest.mark.parametrize("form", IN_THE_BASE, ids=lambda form: form.name)
def test_what_is_written_in_a_format_is_known_by_its_bytes_and_read(form: ImageFormat) -> None:
    data = encoded(drawn(), form.decoders[0])
    assert image_format(data[:HEAD_BYTES]) is form
    assert may_be_image("no ending", data[:HEAD_BYTES])
    assert not may_be_image("camera.dng", data[:HEAD_BYTES])
    got = open_image(data, max_bytes=1 << 24, max_pixels=64_000_000, field="image")
    assert got.media_type == form.media_type == Image.MIME[form.decoders[0]]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_the_names_of_a_format_agree(form: ImageFormat) -> None:
    assert all(may_be_image(f"holiday{ending.upper()}", b"") for ending in form.endings)
    assert ending_for(form.media_type) == form.endings[0]
    assert MEMBER.fullmatch("a" * 64 + form.endings[0])


def test_no_ending_and_no_media_type_stands_for_two_formats() -> None:
    endings = [ending for form in FORMATS for ending in form.endings]
    assert len(endings) == len(set(endings))
    assert len({form.media_type for form in FORMATS}) == len(FORMATS)
    assert ending_for("text/plain") == ""


def test_the_contract_names_the_formats_of_the_base_and_pillow_opens_no_others() -> None:
    comment = re.sub(r"\s*\n\s*//", "", (PROTOS / "types.proto").read_text(encoding="utf-8"))
    [said] = re.findall(r"The file's bytes: ([^.]*)\.", comment)
    names = re.split(r", | or ", re.sub(r" \([^)]*\)", "", said))
    assert names == [form.name for form in IN_THE_BASE]
    assert set(DECODERS) <= {decoder for form in FORMATS for decoder in form.decoders}
    assert {form.decoders[0] for form in IN_THE_BASE} <= set(DECODERS)
