"""The import's pipeline: bounded, in order for one id, and never stuck."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.ingest.importer import Importer, Outcome
from gateway.ingest.pipeline import Pipeline
from gateway.metrics import GatewayMetrics
from gateway.precision import PrecisionNotes
from gateway.settings import GatewaySettings
from protos import search_pb2 as pb
from protos import types_pb2
from services.common.errors import DeadlineExceeded, InvalidField, ModelMismatch, UpstreamUnavailable, WentuError
from tests.unit import virtual_time
from tests.unit.interleaving import drive
from tests.unit.worlds import FakeClients, FakeRetriever, World

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


class Limited:
    """Takes batches as long as the given waits say, and holds the pipeline to its limits."""

    def __init__(self, settings: GatewaySettings, waits: Sequence[int]) -> None:
        self.settings, self.waits = settings, waits
        self.read = self.begun = self.batches = 0
        self.done: list[tuple[str, bytes]] = []
        self.under_way: list[str] = []

    async def uploads(self, images: Sequence[tuple[str, bytes]]) -> AsyncIterator[types_pb2.ImageUpload]:
        for image_id, data in images:
            self.read += 1
            # One that was read waits for room, outside.
            assert self.read - self.begun <= self.settings.import_waiting + 1, "it reads faster than it works"
            yield types_pb2.ImageUpload(image_id=image_id, data=data)

    async def add(self, uploads: Sequence[types_pb2.ImageUpload]) -> list[Outcome]:
        ids = [upload.image_id for upload in uploads]
        size = sum(len(upload.data) for upload in uploads)
        assert 1 <= len(ids) == len({*ids, *self.under_way}) - len(self.under_way) <= self.settings.import_batch
        assert len(ids) == 1 or size <= self.settings.import_batch_bytes
        self.begun += len(ids)
        self.batches += 1
        self.under_way += ids
        await asyncio.sleep(self.waits[self.batches % len(self.waits)])
        self.done += [(upload.image_id, upload.data) for upload in uploads]
        self.under_way = [each for each in self.under_way if each not in ids]
        return [Outcome(pb.ADD_STATUS_ADDED) for _ in uploads]


images = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([b"", b"1", b"22", b"4444"])), max_size=30)
limits = st.builds(
    GatewaySettings,
    import_batch=st.integers(1, 5),
    import_workers=st.integers(1, 4),
    import_waiting=st.integers(1, 6),
    import_batch_bytes=st.sampled_from([1024 * 1024]),
).map(lambda settings: settings.model_copy(update={"import_batch_bytes": 5}))


@given(images, limits, st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_every_image_has_one_outcome_under_any_limits(
    sent: list[tuple[str, bytes]], settings: GatewaySettings, waits: list[int]
) -> None:
    store = Limited(settings, waits)

    async def finished() -> list[tuple[int, str]]:
        return [(each.index, each.image_id) async for each in Pipeline(store.add, settings).run(store.uploads(sent))]

    found = virtual_time.run(finished())
    assert sorted(found) == [(index, image_id) for index, (image_id, _) in enumerate(sent)]
    for image_id in "abcdef":
        assert [data for each, data in store.done if each == image_id] == [
            data for each, data in sent if each == image_id
        ], "those of one id in their order"


@given(images, limits, st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 40))
def test_what_was_told_is_done_whenever_the_caller_leaves(
    sent: list[tuple[str, bytes]], settings: GatewaySettings, waits: list[int], leaves_after: int
) -> None:
    store = Limited(settings, waits)
    told: list[int] = []

    async def listens() -> None:
        async for each in Pipeline(store.add, settings).run(store.uploads(sent)):
            told.append(each.index)

    async def leaves() -> set[asyncio.Task[Any]]:
        before = asyncio.all_tasks()
        listening = asyncio.create_task(listens())
        await asyncio.sleep(leaves_after)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        return asyncio.all_tasks() - before

    assert virtual_time.run(leaves()) == set()
    assert len(told) == len(set(told))
    assert {sent[index] for index in told} <= set(store.done)


TROUBLE: Sequence[Callable[[], WentuError]] = (
    lambda: UpstreamUnavailable("retriever", "broken"),
    lambda: DeadlineExceeded("late"),
    lambda: ModelMismatch("c", "a", "b"),
    lambda: InvalidField("records[0].embedding", "is odd"),
)


class Failing(FakeClients):
    """Clients of which the given calls fail, counted from the first, before or after they take effect."""

    def __init__(self, world: World, failures: dict[int, tuple[int, bool]]) -> None:
        super().__init__(world)
        self.failures, self.calls = failures, 0
        for client, names in (
            (self.retriever, ("get_collection", "upsert_vectors", "get_vectors", "delete_vectors")),
            (self.imagestore, ("put_blobs", "get_blobs")),
        ):
            for name in names:
                setattr(client, name, self._failing(getattr(client, name)))

    def _failing(self, call: Any) -> Any:
        async def calling(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            error, late = self.failures.get(self.calls, (None, False))
            if error is not None and not late:
                raise TROUBLE[error]()
            answer = await call(*args, **kwargs)
            if error is not None:
                raise TROUBLE[error]()
            return answer

        return calling


NOTES = PrecisionNotes(GatewayMetrics(CollectorRegistry()))


def importer_of(clients: FakeClients, if_exists: types_pb2.IfExists.ValueType) -> Importer:
    creation_id = clients.world.collection("c").creation_id
    return Importer(clients, SETTINGS, "c", creation_id, if_exists, NOTES, clients.look_after)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", ""]), st.sampled_from([b"", b"1", b"2"])), max_size=5),
    st.sampled_from([types_pb2.IF_EXISTS_REPLACE, types_pb2.IF_EXISTS_SKIP, types_pb2.IF_EXISTS_FAIL]),
    st.dictionaries(st.integers(1, 12), st.tuples(st.integers(0, len(TROUBLE) - 1), st.booleans()), max_size=4),
)
def test_every_image_of_a_batch_has_one_outcome_whatever_fails(
    sent: list[tuple[str, bytes]], if_exists: types_pb2.IfExists.ValueType, failures: dict[int, tuple[int, bool]]
) -> None:
    """And what is acknowledged is in both stores, whatever else was told."""
    batch = list(dict(sent).items())
    world = World(random.Random(0))
    collection = world.create("c")
    first = importer_of(FakeClients(world), types_pb2.IF_EXISTS_REPLACE)
    drive(first.add([types_pb2.ImageUpload(image_id="a", data=b"0")]))
    importer = importer_of(Failing(world, failures), if_exists)
    outcomes = drive(importer.add([types_pb2.ImageUpload(image_id=each, data=data) for each, data in batch]))
    assert len(outcomes) == len(batch)
    rows = world.images[collection.creation_id]
    for (image_id, data), outcome in zip(batch, outcomes, strict=True):
        assert (outcome.error is not None) == (outcome.status == pb.ADD_STATUS_FAILED)
        if outcome.status in (pb.ADD_STATUS_ADDED, pb.ADD_STATUS_REPLACED):
            assert (outcome.status == pb.ADD_STATUS_REPLACED) == (image_id == "a")
            assert rows[image_id].data == data
            assert collection.current.vectors[image_id].content_sha256 == rows[image_id].sha256
        if outcome.status == pb.ADD_STATUS_SKIPPED:
            assert (image_id, if_exists, rows["a"].data) == ("a", types_pb2.IF_EXISTS_SKIP, b"0")
        if not image_id or not data:
            assert outcome.error is not None
            assert outcome.error.field.startswith("image.")
        elif not failures:
            refused = image_id == "a" and if_exists == types_pb2.IF_EXISTS_FAIL
            assert (outcome.error is not None) == refused


async def test_one_bad_image_of_a_batch_does_not_fail_the_others() -> None:
    """A service that refuses a whole batch for one of its items is asked about each alone."""

    class Picky(FakeRetriever):
        async def upsert_vectors(self, request: Any) -> Any:
            if any(record.image_id == "bad" for record in request.records):
                raise InvalidField("records[1].embedding", "is odd")
            return await super().upsert_vectors(request)

    world = World(random.Random(0))
    world.create("c")
    clients = FakeClients(world)
    clients.retriever = Picky(world)
    importer = importer_of(clients, types_pb2.IF_EXISTS_REPLACE)
    outcomes = await importer.add([types_pb2.ImageUpload(image_id=each, data=b"1") for each in ("a", "bad", "b")])
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert sorted(world.collection("c").current.vectors) == ["a", "b"]
