"""Ids, counts, ranges and page tokens: what is taken, and that a refusal names field and limit."""

from __future__ import annotations

import base64
import math
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import types_pb2
from services.common import ids
from services.common.errors import InvalidField
from services.common.pages import fitting

good_ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=63)


@given(good_ids)
def test_a_page_token_gives_its_key_back(image_id: str) -> None:
    token = ids.page_token(image_id)
    assert ids.page_start(token) == image_id
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", token), "it stands in a URL as it is"


def test_no_token_is_the_first_page() -> None:
    assert ids.page_token("") == ids.page_start("") == ""


@given(st.one_of(st.text(max_size=50), st.binary(max_size=50).map(base64.urlsafe_b64encode).map(bytes.decode)))
def test_any_token_is_a_key_or_a_refusal(token: str) -> None:
    try:
        key = ids.page_start(token)
    except InvalidField as error:
        assert error.field == "page_token"  # noqa: PT017
    else:
        assert not key or ids.check_image_id(key) == key


@pytest.mark.parametrize("token", ["YQ", "YQ==\n", "Y Q==", "Y+8=", "一", "AA=="])
def test_what_no_page_ended_with_is_no_token(token: str) -> None:
    with pytest.raises(InvalidField, match="page_token: is not a token of this service"):
        ids.page_start(token)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_an_image_id_is_taken_by_its_bytes(value: str) -> None:
    size = len(value.encode())
    wanted = 1 <= size <= 255 and not any(unicodedata.category(each) == "Cc" for each in value)
    if wanted:
        assert ids.check_image_id(value) == value
    else:
        with pytest.raises(InvalidField, match=r"^image_id: must "):
            ids.check_image_id(value)


def test_the_longest_image_id() -> None:
    assert ids.check_image_id("图" * 85) == "图" * 85
    with pytest.raises(InvalidField, match="1 to 255 bytes of UTF-8, got 256"):
        ids.check_image_id("图" * 85 + "x")


@pytest.mark.parametrize("value", ["a", "a" * 63, "a_0"])
def test_a_collection_id(value: str) -> None:
    assert ids.check_collection(value) == value


@pytest.mark.parametrize("value", ["", "a" * 64, "A", "0a", "_a", "a-b", "a\n", "a.b", "á", "a٣"])
def test_no_collection_id(value: str) -> None:
    with pytest.raises(InvalidField, match=r"^mine: must match \[a-z\]"):
        ids.check_collection(value, "mine")


def test_an_id_that_is_repeated_is_asked_once() -> None:
    assert ids.check_image_ids(["b", "a", "b"]) == ["b", "a"]
    with pytest.raises(InvalidField, match="got 1001"):
        ids.check_image_ids(["a"] * 1001)
    with pytest.raises(InvalidField) as caught:
        ids.check_image_ids(["a", "b\n"])
    assert caught.value.field == "image_ids[1]"


@pytest.mark.parametrize(
    ("call", "arguments", "field", "limit"),
    [
        (ids.check_count, ([], "f", 3), "f", "1 to 3 items, got 0"),
        (ids.check_count, ("abcd", "f", 3), "f", "1 to 3 items, got 4"),
        (ids.check_distinct, (["x", "y", "x"], "f"), "f[2]", "repeats 'x'"),
        (ids.check_range, (1001, "f", 1, 1000), "f", "1 to 1,000, got 1,001"),
        (ids.check_range, (math.nan, "f", -1, 1), "f", "-1 to 1, got nan"),
        (ids.check_sha256, ("A" * 64, "f"), "f", "64 lower-case hexadecimal digits"),
        (ids.check_sha256, ("a" * 64 + "\n", "f"), "f", "64 lower-case hexadecimal digits"),
        (ids.page_size, (1001, "f"), "f", "1 to 1,000, got 1,001"),
        (ids.page_size, (-1, "f"), "f", "1 to 1,000, got -1"),
    ],
)
def test_a_refusal_names_field_and_limit(call: Any, arguments: tuple[Any, ...], field: str, limit: str) -> None:
    with pytest.raises(InvalidField, match=re.escape(limit)) as caught:
        call(*arguments)
    assert caught.value.field == field


def test_what_lies_on_the_limits_passes() -> None:
    ids.check_count([], "f", 3, least=0)
    ids.check_count("abc", "f", 3)
    ids.check_distinct(["x", "y"], "f")
    ids.check_range(1, "f", 1, 1000)
    ids.check_range(1000, "f", 1, 1000)
    assert ids.check_sha256("", "f") == ""
    assert ids.check_sha256("0" * 64, "f") == "0" * 64
    assert [ids.page_size(each) for each in (0, 1, 1000)] == [100, 1, 1000]


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 12), st.integers(2, 200))
def test_a_page_is_cut_by_count_and_by_bytes(sizes: list[int], size: int, max_bytes: int) -> None:
    made = 0

    def messages() -> Any:
        nonlocal made
        for number in sizes:
            made += 1
            yield types_pb2.ImageInfo(image_id="x" * number)

    page = fitting(messages(), size, max_bytes)
    taken = sum(message.ByteSize() for message in page)
    assert len(page) <= size
    assert [len(message.image_id) for message in page] == sizes[: len(page)]
    assert len(page) <= 1 or taken <= max_bytes // 2
    assert bool(page) == bool(sizes), "one at least: else nobody gets past it"
    assert made <= len(page) + 1, "the others are not made"
    if len(page) < min(size, len(sizes)):
        assert taken + types_pb2.ImageInfo(image_id="x" * sizes[len(page)]).ByteSize() > max_bytes // 2
