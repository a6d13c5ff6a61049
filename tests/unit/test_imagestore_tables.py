"""Which creation of a collection a request means, and what one answer may hold: over tables in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, delete, insert

from services.common.errors import AnswerTooLarge, CollectionNotFound
from services.imagestore import creations as creating
from services.imagestore.creations import State, claim, mark, reading_key, remaining
from services.imagestore.reading import by_id, data_of, rows_after, with_bytes
from services.imagestore.records import Creation
from services.imagestore.schema import contents, images, metadata


@pytest.fixture
def tables() -> Iterator[Connection]:
    with tables_in_memory() as connection:
        yield connection


def tables_in_memory() -> Connection:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    return engine.connect()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each registration is a second after the one before."""
    seconds = iter(range(1000, 10_000))
    monkeypatch.setattr(creating, "time", SimpleNamespace(time=lambda: float(next(seconds))))


def put(connection: Connection, key: str, image_id: str, data: bytes | None) -> None:
    """`data` is None for an image whose content is gone."""
    sha256 = hashlib.sha256(b"gone" if data is None else data).digest()
    size = 4 if data is None else len(data)
    connection.execute(
        insert(images).values(
            collection=key,
            image_id=image_id.encode(),
            sha256=sha256,
            media_type="image/png",
            size_bytes=size,
            width=1,
            height=2,
            create_time_ms=3,
            attributes='{"a": 1}',
            revision=4,
        )
    )
    if data is not None and data_of(connection, key, sha256) is None:
        connection.execute(insert(contents).values(collection=key, sha256=sha256, size_bytes=size, data=data))


def test_a_collection_that_nobody_registered_is_its_own_creation(tables: Connection) -> None:
    """Images of a version that had no creations."""
    assert reading_key(tables, Creation("c")) == "c"
    assert claim(tables, Creation("c")) == "c"
    assert reading_key(tables, Creation("c")) == "c"
    assert remaining(tables, "c") == ["c"]


def test_the_newest_live_creation_is_meant_unless_one_is_named(tables: Connection) -> None:
    assert claim(tables, Creation("c", "C1")) == "C1"
    assert claim(tables, Creation("c", "C2")) == "C2"
    assert claim(tables, Creation("c", "C1")) == "C1", "it is not registered a second time"
    assert [reading_key(tables, Creation("c", each)) for each in ("", "C1", "C9")] == ["C2", "C1", "C9"]
    assert claim(tables, Creation("c")) == "C2"
    assert remaining(tables, "c") == ["C2", "C1"]
    assert remaining(tables, "other") == []
    mark(tables, "C2", "c", State.DROPPING)
    assert reading_key(tables, Creation("c")) == "C1"
    assert remaining(tables, "c") == ["C2", "C1"], "some of its images may be left"
    mark(tables, "C2", "c", State.DROPPED)
    assert remaining(tables, "c") == ["C1"]


@pytest.mark.parametrize("state", [State.DROPPING, State.DROPPED])
def test_what_is_dropped_takes_no_images_and_never_comes_back(tables: Connection, state: State) -> None:
    claim(tables, Creation("c", "C1"))
    mark(tables, "C1", "c", state)
    for _ in range(2):
        with pytest.raises(CollectionNotFound):
            claim(tables, Creation("c", "C1"))
    mark(tables, "C2", "c", state)  # dropped before its first image came
    with pytest.raises(CollectionNotFound):
        claim(tables, Creation("c", "C2"))
    assert reading_key(tables, Creation("c")) == "c"


def test_a_creation_of_another_collection_takes_no_images(tables: Connection) -> None:
    claim(tables, Creation("c", "C1"))
    with pytest.raises(CollectionNotFound):
        claim(tables, Creation("d", "C1"))


def test_callers_that_name_no_creation_agree_on_a_new_one(tables: Connection) -> None:
    claim(tables, Creation("c"))
    mark(tables, "c", "c", State.DROPPED)
    assert reading_key(tables, Creation("c")) == "", "no row has it"
    key = claim(tables, Creation("c"))
    assert key not in ("", "c")
    assert claim(tables, Creation("c")) == key == reading_key(tables, Creation("c"))
    mark(tables, key, "c", State.DROPPED)
    assert claim(tables, Creation("c")) not in ("", "c", key)


def test_images_are_read_by_id_and_in_the_order_of_bytes(tables: Connection) -> None:
    for image_id in ("b", "a", "\ufffd", "\U0001f600"):
        put(tables, "c", image_id, image_id.encode())
    put(tables, "d", "a", b"of another")
    found = by_id(tables, "c", ["a", "missing", "b"])
    assert sorted(found) == ["a", "b"]
    info = found["a"]
    assert (info.sha256, info.size_bytes, info.width, info.height) == (hashlib.sha256(b"a").hexdigest(), 1, 1, 2)
    assert (info.create_time_ms, info.revision, info.attributes) == (3, 4, None)
    assert by_id(tables, "c", ["a"], with_attributes=True)["a"].attributes == '{"a": 1}'
    pages = [[each.image_id for each in rows_after(tables, "c", last, 2)] for last in ("", "b", "\U0001f600")]
    assert pages == [["a", "b"], ["\ufffd", "\U0001f600"], []]


def test_an_image_whose_content_is_gone_has_empty_bytes(tables: Connection) -> None:
    put(tables, "c", "a", None)
    assert with_bytes(tables, "c", ["a", "missing"])["a"][1] == b""


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from("abcdef"), st.binary(max_size=12), max_size=6), st.integers(0, 40))
def test_an_answer_has_all_bytes_or_none(stored: dict[str, bytes], limit: int) -> None:
    asked = sorted({*stored, "missing"})
    with tables_in_memory() as connection:
        for image_id, data in stored.items():
            put(connection, "c", image_id, data)
        if sum(map(len, stored.values())) <= limit:
            found = with_bytes(connection, "c", asked, max_bytes=limit)
            assert {image_id: data for image_id, (_, data) in found.items()} == stored
        else:
            with pytest.raises(AnswerTooLarge, match=f"one answer takes {limit}"):
                with_bytes(connection, "c", asked, max_bytes=limit)
        connection.execute(delete(contents))
