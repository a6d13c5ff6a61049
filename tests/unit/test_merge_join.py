"""Both stores side by side: each id once, in order, with what each store has of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.agreement import attributes_of
from gateway.maintenance.merge_join import merge_join
from protos import imagestore_pb2, retriever_pb2, types_pb2
from tests.unit.interleaving import Step, drive

Item = TypeVar("Item")
# Where the order of UTF-8 and that of UTF-16 differ, too.
image_ids = st.text(st.sampled_from("ab图\ufffd\U0001f600"), min_size=1, max_size=3)
# A store's ids, each with the number of the page that it is on, which may leave pages empty.
sides = st.dictionaries(image_ids, st.integers(0, 2), max_size=12)


def paged(items: Sequence[tuple[Item, int]], asked: list[str]) -> Callable[[str], Awaitable[tuple[list[Item], str]]]:
    """A store whose pages end where the numbers say; `asked` takes the tokens that it gets."""
    pages: list[list[Item]] = [[]]
    for item, skips in items:
        pages.extend([] for _ in range(skips))
        pages[-1].append(item)

    async def page(token: str) -> tuple[list[Item], str]:
        asked.append(token)
        await Step()
        number = int(token or 0)
        return pages[number], str(number + 1) if number + 1 < len(pages) else ""

    return page


@given(sides, sides)
def test_every_id_once_in_order_with_what_each_side_has(left: dict[str, int], right: dict[str, int]) -> None:
    def ordered(side: dict[str, int]) -> list[tuple[str, int]]:
        return sorted(side.items(), key=lambda pair: pair[0].encode())

    blobs = [
        (imagestore_pb2.Blob(info=types_pb2.ImageInfo(image_id=image_id)), skips) for image_id, skips in ordered(left)
    ]
    records = [(retriever_pb2.VectorRecord(image_id=image_id), skips) for image_id, skips in ordered(right)]
    tokens: tuple[list[str], list[str]] = ([], [])

    async def joined() -> list[tuple[str, imagestore_pb2.Blob | None, retriever_pb2.VectorRecord | None]]:
        return [each async for each in merge_join(paged(blobs, tokens[0]), paged(records, tokens[1]))]

    found = drive(joined())
    assert [image_id for image_id, _, _ in found] == sorted({*left, *right}, key=str.encode)
    for image_id, blob, record in found:
        assert (blob is not None, record is not None) == (image_id in left, image_id in right)
        assert blob is None or blob.info.image_id == image_id
        assert record is None or record.image_id == image_id
    for asked in tokens:
        assert asked == ["", *map(str, range(1, len(asked)))], "each page once"


def struct(**values: float) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update(values)
    return message


def test_the_image_store_has_the_last_word_on_attributes_if_it_has_one() -> None:
    record = retriever_pb2.VectorRecord(attributes=struct(a=1))
    said = imagestore_pb2.Blob(attributes=struct(b=2))
    assert attributes_of(said, record) == said.attributes
    assert attributes_of(imagestore_pb2.Blob(attributes=struct()), record) == struct(), "none is an answer too"
    assert attributes_of(imagestore_pb2.Blob(), record) == record.attributes
    assert attributes_of(imagestore_pb2.Blob(), None) == struct()
