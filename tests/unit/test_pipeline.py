"""The import's pipeline: bounded, in order for one id, and never stuck."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.ingest.importer import Outcome
from gateway.ingest.pipeline import Pipeline
from gateway.settings import GatewaySettings
from protos import search_pb2 as pb
from protos import types_pb2

SETTINGS = GatewaySettings(import_batch=4, import_workers=3, import_waiting=8)


class Slow:
    """A dict that is filled slowly, batch by batch."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.under_way: set[str] = set()
        self.most_under_way = 0

    async def add(self, uploads: Sequence[types_pb2.ImageUpload]) -> list[Outcome]:
        ids = {upload.image_id for upload in uploads}
        assert len(ids) == len(uploads) <= SETTINGS.import_batch
        assert not ids & self.under_way, "an id is under way twice"
        self.under_way |= ids
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        await asyncio.sleep(random.random() / 200)
        if any(upload.data == b"break" for upload in uploads):
            raise RuntimeError("broken")
        self.kept |= {upload.image_id: upload.data for upload in uploads}
        self.under_way -= ids
        return [Outcome(pb.ADD_STATUS_ADDED) for _ in uploads]


async def uploads(pairs: Sequence[tuple[str, bytes]]) -> AsyncIterator[types_pb2.ImageUpload]:
    for image_id, data in pairs:
        yield types_pb2.ImageUpload(image_id=image_id, data=data)


async def test_every_image_is_answered_once_and_the_last_of_an_id_is_kept() -> None:
    pairs = [(f"id{random.randrange(20)}", str(place).encode()) for place in range(500)]
    store = Slow()
    finished = [each.index async for each in Pipeline(store.add, SETTINGS).run(uploads(pairs))]
    assert sorted(finished) == list(range(500))
    assert store.kept == dict(pairs)
    assert store.most_under_way <= SETTINGS.import_batch * SETTINGS.import_workers


async def test_a_reader_that_breaks_is_told_after_what_came_before_it() -> None:
    async def breaking() -> AsyncIterator[types_pb2.ImageUpload]:
        async for upload in uploads([("a", b"1"), ("b", b"2")]):
            yield upload
        raise ConnectionError("the caller is gone")

    stream = Pipeline(Slow().add, SETTINGS).run(breaking())
    assert sorted([(await anext(stream)).image_id, (await anext(stream)).image_id]) == ["a", "b"]
    with pytest.raises(ConnectionError):
        await anext(stream)


async def test_a_worker_that_breaks_ends_the_stream() -> None:
    pairs = [(f"id{place}", b"break" if place % 5 == 0 else b"fine") for place in range(200)]

    async def drain() -> None:
        async for _ in Pipeline(Slow().add, SETTINGS).run(uploads(pairs)):
            pass

    with pytest.raises(RuntimeError, match="broken"):
        await asyncio.wait_for(drain(), 5)


async def test_a_caller_that_leaves_takes_its_tasks_along() -> None:
    before = asyncio.all_tasks()
    stream = Pipeline(Slow().add, SETTINGS).run(uploads([(str(place), b"x") for place in range(300)]))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert asyncio.all_tasks() == before
