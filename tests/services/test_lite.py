"""Milvus Lite as the retriever uses it: flushed under reads, on a full disk, under many creations and deletions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode, aio

from protos import retriever_pb2 as pb
from protos import retriever_pb2_grpc, types_pb2
from services.common.errors import CollectionExists, UpstreamUnavailable
from services.common.fingerprint import Fingerprint
from services.retriever.__main__ import running
from services.retriever.milvus import lite
from services.retriever.milvus.lite import Lite
from services.retriever.records import Consistency, Index, Metric, Record, VectorCollection
from services.retriever.settings import RetrieverSettings
from services.retriever.store import VectorStore

STRONG = Consistency.STRONG
# Lite does not close the files of a failed flush.
leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
MODEL = Fingerprint("x", 4, "a" * 64, 1)


def records(start: int, count: int, dim: int = 4) -> list[Record]:
    vector = np.full(dim, dim**-0.5, np.float32)
    return [Record(f"{number:05}", vector, {}) for number in range(start, start + count)]


async def created(path: Path, dim: int = 4) -> Lite:
    backend = Lite(RetrieverSettings(milvus=str(path / "milvus.db")))
    await backend.create("c", dim, Metric.INNER_PRODUCT, Index("FLAT"), {})
    return backend


async def test_a_read_waits_for_the_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flush is stopped at the moment when the rows have left memory and are not yet in a file."""
    from milvus_lite.engine import collection

    new_log, in_between, go_on = collection.WAL, threading.Event(), threading.Event()

    def slow(**arguments: Any) -> Any:
        in_between.set()
        assert go_on.wait(10)
        return new_log(**arguments)

    backend = await created(tmp_path)
    await backend.upsert("c", records(0, 3))
    monkeypatch.setattr(collection, "WAL", slow)
    flushing = asyncio.create_task(backend.flush("c"))
    assert await asyncio.to_thread(in_between.wait, 10)
    count = asyncio.create_task(backend.count("c", None, STRONG))
    one = asyncio.create_task(backend.fetch("c", ["00001"], False, STRONG))
    page = asyncio.create_task(backend.page("c", "", 10, None, False, STRONG))
    search = asyncio.create_task(
        backend.search(
            "c",
            [np.full(4, 0.5, np.float32)],
            9,
            None,
            metric=Metric.INNER_PRODUCT,
            index_type="FLAT",
            parameters={},
            with_vectors=False,
            consistency=STRONG,
        )
    )
    await asyncio.sleep(0.1)
    go_on.set()
    await flushing
    [hits] = await search
    assert (await count, len(await one), len(await page), len(hits)) == (3, 1, 3, 3)
    await backend.close()


@leaves_files_open
@pytest.mark.usefixtures("quiet_lite")
async def test_what_a_failed_flush_left_in_the_log_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush fails once. Then a write follows, and a good flush, which deletes the log."""
    from milvus_lite.engine import collection

    flush = collection.execute_flush

    def failing(**arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lite, "RETRY_SECONDS", 0.05)
    backend = await created(tmp_path)
    await backend.upsert("c", records(0, 3))
    monkeypatch.setattr(collection, "execute_flush", failing)
    with pytest.raises(UpstreamUnavailable):
        await backend.flush("c")
    with pytest.raises(UpstreamUnavailable, match="could not write its files"):
        await backend.upsert("c", records(3, 1))
    with pytest.raises(UpstreamUnavailable, match="could not write its files"):
        await backend.check()
    await backend.load("c")
    assert await backend.count("c", None, STRONG) == 3
    monkeypatch.setattr(collection, "execute_flush", flush)
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(UpstreamUnavailable):
                await backend.check()
                break
            await asyncio.sleep(0.05)
    await backend.upsert("c", records(3, 1))
    await backend.flush("c")
    await backend.close()
    backend = Lite(RetrieverSettings(milvus=str(tmp_path / "milvus.db")))
    await backend.load("c")
    assert await backend.count("c", None, STRONG) == 4
    await backend.close()
    gc.collect()


@pytest.fixture
def quiet_lite(caplog: pytest.LogCaptureFixture) -> None:
    """A logged exception keeps files open."""
    caplog.set_level(logging.CRITICAL, "milvus_lite")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root mounts a disk of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # a failed test may leave files open there


@leaves_files_open
@pytest.mark.usefixtures("quiet_lite")
async def test_a_full_disk_loses_nothing_and_says_so(small_disk: Path) -> None:
    """3 MiB are acknowledged, and the disk is full at their flush. Later the disk has space again."""
    backend = await created(small_disk, dim=256)
    await backend.upsert("c", records(0, 3000, dim=256))
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(small_disk)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
    with pytest.raises(UpstreamUnavailable, match="the disk is full"):
        await backend.flush("c")
    for refused in (
        backend.upsert("c", records(3000, 1, dim=256)),
        backend.delete("c", ["00000"]),
        backend.check(),
    ):
        with pytest.raises(UpstreamUnavailable, match="the disk is full"):
            await refused
    await backend.load("c")
    assert await backend.count("c", None, STRONG) == 3000
    filler.unlink()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(UpstreamUnavailable):
                await backend.upsert("c", records(3000, 100, dim=256))
                break
            await asyncio.sleep(0.1)
    await backend.flush("c")
    assert await backend.count("c", None, STRONG) == 3100
    await backend.close()
    gc.collect()


async def test_creations_among_deletions(tmp_path: Path) -> None:
    settings = RetrieverSettings(port=0, milvus=str(tmp_path / "milvus.db"), shutdown_grace_seconds=0)
    async with running(settings) as port, aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = retriever_pb2_grpc.RetrieverServiceStub(channel)

        async def create(name: str) -> None:
            await stub.CreateVectorCollection(
                pb.CreateVectorCollectionRequest(collection=name, model=MODEL.to_message()), timeout=60
            )

        async def drop(name: str) -> bool:
            answer = await stub.DropVectorCollection(pb.DropVectorCollectionRequest(collection=name), timeout=60)
            return bool(answer.dropped)

        await asyncio.gather(*(create(f"old{number}") for number in range(40)))
        mixed = [create(f"new{number}") for number in range(40)] + [drop(f"old{number}") for number in range(40)]
        answers = await asyncio.gather(*mixed[::2], *mixed[1::2])
        assert answers.count(True) == 40
        listed = await stub.ListVectorCollections(pb.ListVectorCollectionsRequest(page_size=1000))
        assert sorted(each.collection for each in listed.collections) == sorted(f"new{number}" for number in range(40))
        # If two callers create the same name, exactly one succeeds.
        same = await asyncio.gather(create("same"), create("same"), return_exceptions=True)
        [refused] = [each for each in same if isinstance(each, aio.AioRpcError)]
        assert refused.code() is StatusCode.ALREADY_EXISTS
        for _ in range(5):
            assert not isinstance((await asyncio.gather(drop("same"), create("again")))[0], Exception)
            assert (await asyncio.gather(create("same"), drop("again")))[1]
        # Lite notices only after the creation that it has no DISKANN.
        index = types_pb2.IndexSpec(type=types_pb2.INDEX_TYPE_DISKANN)
        request = pb.CreateVectorCollectionRequest(collection="d", model=MODEL.to_message(), index=index)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.CreateVectorCollection(request)
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT


async def test_a_creation_that_nobody_waits_for_leaves_nothing_unlisted(tmp_path: Path) -> None:
    backend = Lite(RetrieverSettings(milvus=str(tmp_path / "milvus.db")))
    store = VectorStore(backend)
    wanted = VectorCollection("left", MODEL, Metric.INNER_PRODUCT, Index("FLAT"))
    for seconds in (0.0, 0.005, 0.02):
        with contextlib.suppress(TimeoutError, CollectionExists):
            async with asyncio.timeout(seconds):
                await store.catalog.create(wanted)
    await store.close()
    [physical] = await backend.collections()
    assert (await store.catalog.fresh("left")).physical == physical
    await backend.close()


async def test_what_a_killed_creation_left_is_dropped_at_the_start_and_with_its_name(tmp_path: Path) -> None:
    backend = Lite(RetrieverSettings(milvus=str(tmp_path / "milvus.db")))
    catalog = VectorStore(backend).catalog
    old = VectorCollection("a", MODEL, Metric.INNER_PRODUCT, Index("FLAT"), create_time=time.time() - 3600)
    young = VectorCollection("a", MODEL, Metric.INNER_PRODUCT, Index("FLAT"))

    async def left(physical: str, settings: VectorCollection) -> None:
        await backend.create(physical, 4, Metric.INNER_PRODUCT, Index("FLAT"), settings.to_json())

    await left("a_G00000000", old)
    await left("a_G00000001", young)
    await left("b_G00000000", old)
    await catalog.remove_abandoned()
    assert await backend.collections() == ["a_G00000001"], "a young one may be another retriever's, right now"
    made = VectorCollection("a", MODEL, Metric.INNER_PRODUCT, Index("FLAT"), create_time=time.time() + 1)
    changes: list[Callable[[], Awaitable[Any]]] = [lambda: catalog.create(made), *[lambda: catalog.drop("a")] * 2]
    for change in changes:
        await left("a_G00000002", old)
        await change()
        assert "a_G00000002" not in await backend.collections()
    assert await backend.collections() == ["a_G00000001"]
    await backend.close()
