"""Milvus Lite: a server in this process, on files, that needs a hand.

It takes calls on ten threads and locks nothing, though it is made for one at a time. A flush puts an empty table in the
place of what is in memory before the files of that are there: a read meanwhile finds neither. Two writes may open one
log twice, two creations write one alias file. So here reads share a collection, a write or a flush has it alone, and
what changes names has everything alone.

A flush that fails leaves its rows in the log alone, and the next good flush deletes that log. A write that fails may
cut a log, and what is written behind the cut is not read again. So after either, Lite is put aside as if it had been
killed, and opened again from its log, before anything else is asked of it. Until the flush has succeeded, writes are
refused and reads go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog
from milvus_lite.engine import collection as lite_collection
from milvus_lite.server_manager import server_manager_instance as servers
from pymilvus import MilvusClient, MilvusException

from services.common.calls import incoming, request_id
from services.common.errors import UpstreamUnavailable
from services.common.limits import MIB
from services.common.settings import existing_folder
from services.retriever.backend import NoSuchCollection
from services.retriever.milvus.arrow_path import arrow_path
from services.retriever.milvus.client import Milvus
from services.retriever.milvus.gates import Gate
from services.retriever.milvus.idle_flush import IdleFlush
from services.retriever.records import Hit, Index, Metric, Record
from services.retriever.settings import RetrieverSettings

log = structlog.get_logger()
Result = TypeVar("Result")
Gates = Callable[[], Sequence[AbstractAsyncContextManager[None]]]

# Writes leave so much of the disk: a flush writes files before it deletes the log.
MIN_FREE_BYTES = 8 * MIB
# A log is flushed at this size: Lite itself flushes at 128 MiB, in the middle of a write, and when it opens a file.
FLUSH_BYTES = 64 * MIB
# Lite does not stop what its caller gave up, so nothing is given up.
PATIENCE_SECONDS = 600.0
RETRY_SECONDS = 0.5
ILLEGAL_ARGUMENT_CODE = 6
# It keeps 256 parsed filters of each collection, and one that names 1,500 images takes 240 KB.
lite_collection.FILTER_CACHE_SIZE = 4
# Its server prints a stack for a call that pymilvus makes and does without (AllocTimestamp).
logging.getLogger("grpc._server").setLevel(logging.CRITICAL)


class Lite(Milvus):
    """A Milvus Lite file, a VectorBackend."""

    kind = "milvus-lite"
    # It has no `in` for JSON, takes true for 1, has a third truth value, and unpacks whole rows, vectors and all, to
    # look at one attribute.
    evaluates_filters = False
    # Its HNSW is slower than its FLAT.
    default_index = Index("FLAT")
    # It takes DISKANN too, and fails later.
    index_types = Milvus.index_types - {"DISKANN"}
    # It keeps its own order unless it is told that an iterator asks.
    _ordered: Mapping[str, str] = {"iterator": "True"}

    def __init__(self, settings: RetrieverSettings) -> None:
        path = Path(settings.milvus).expanduser().absolute()
        existing_folder(path.parent)
        self._path = arrow_path(path)
        database = settings.milvus_database
        self._folders = self._path / (f"databases/{database}/collections" if database else "collections")
        super().__init__(settings)
        self._timeout_seconds = PATIENCE_SECONDS
        self._names = Gate()
        self._rows: WeakValueDictionary[str, Gate] = WeakValueDictionary()
        self._idle_flush = IdleFlush(self.flush)
        # Whether a write or a flush failed since the files were opened.
        self._doubtful = False
        # Collections whose flush failed. Their rows are in the log.
        self._unflushed: set[str] = set()
        self._background: dict[str, asyncio.Task[None]] = {}

    async def check(self) -> None:
        """Passes if it answers and takes writes."""
        self._refuse()
        await self.collections()

    async def collections(self) -> list[str]:
        return await self._reading(self._everything, super().collections)

    async def describe(self, name: str) -> tuple[str, dict[str, Any] | None]:
        return await self._reading(self._everything, super().describe, name)

    async def create(self, name: str, dim: int, metric: Metric, index: Index, settings: Mapping[str, Any]) -> None:
        self._refuse()
        await self._writing(self._alone, super().create, name, dim, metric, index, settings)

    async def drop(self, name: str) -> None:
        await self._writing(self._alone, super().drop, name)
        self._unflushed.discard(name)

    async def create_alias(self, name: str, alias: str) -> None:
        await self._writing(self._alone, super().create_alias, name, alias)

    async def move_alias(self, name: str, alias: str) -> None:
        await self._writing(self._alone, super().move_alias, name, alias)

    async def drop_alias(self, alias: str) -> None:
        await self._writing(self._alone, super().drop_alias, alias)

    async def load(self, name: str) -> None:
        await self._writing(self._alone_with(name), self._load, name)

    async def upsert(self, name: str, records: Sequence[Record]) -> None:
        self._refuse()
        await self._writing(self._alone_with(name), super().upsert, name, records)
        if self._log_bytes(name) < FLUSH_BYTES:
            self._idle_flush.wrote(name, len(records))
        else:
            with contextlib.suppress(UpstreamUnavailable):  # the rows are in the log
                await self.flush(name)

    async def delete(self, name: str, image_ids: Sequence[str]) -> None:
        self._refuse()
        await self._writing(self._alone_with(name), super().delete, name, image_ids)

    async def flush(self, name: str) -> None:
        """Writes what is in memory to files; a collection that is gone needs none.

        If it fails it is tried again until it succeeds, and writes are refused meanwhile.
        """
        try:
            with contextlib.suppress(NoSuchCollection):
                await self._writing(self._alone_with(name), self.call, self._flush, name)
        except UpstreamUnavailable:
            self._unflushed.add(name)
            self._begin("recovery", self._recover)
            raise
        self._unflushed.discard(name)

    async def indexed(self, name: str) -> int:
        return await self._reading(self._shared_with(name), super().indexed, name)

    async def count(self, name: str, *args: Any) -> int:
        return await self._reading(self._shared_with(name), super().count, name, *args)

    async def fetch(self, name: str, *args: Any) -> list[Record]:
        return await self._reading(self._shared_with(name), super().fetch, name, *args)

    async def page(self, name: str, *args: Any) -> list[Record]:
        return await self._reading(self._shared_with(name), super().page, name, *args)

    async def search(self, name: str, *args: Any, **kwargs: Any) -> list[list[Hit]]:
        return await self._reading(self._shared_with(name), partial(super().search, name, *args, **kwargs))

    async def close(self) -> None:
        await self._idle_flush.close()
        for task in self._background.values():
            task.cancel()
        await asyncio.gather(*self._background.values(), return_exceptions=True)
        async with self._names.alone():
            await self._workers.run(self._put_aside if self._doubtful else self._release)
        await super().close()

    def _everything(self) -> Sequence[AbstractAsyncContextManager[None]]:
        return [self._names.shared()]

    def _alone(self) -> Sequence[AbstractAsyncContextManager[None]]:
        return [self._names.alone()]

    def _shared_with(self, name: str) -> Gates:
        gate = self._rows.setdefault(name, Gate())
        return lambda: [self._names.shared(), gate.shared()]

    def _alone_with(self, name: str) -> Gates:
        gate = self._rows.setdefault(name, Gate())
        return lambda: [self._names.shared(), gate.alone()]

    async def _reading(self, gates: Gates, operation: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        while True:
            async with AsyncExitStack() as stack:
                for gate in gates():
                    await stack.enter_async_context(gate)
                if not self._doubtful:
                    return await operation(*args)
            await self._opened_again()

    async def _writing(self, gates: Gates, operation: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        """Runs to its end once it has begun, even if its caller waits no more: Lite does not stop either."""
        begun = False

        async def whole() -> Result:
            nonlocal begun
            begun = True
            try:
                with incoming(request_id(), None):
                    return await operation(*args)
            except UpstreamUnavailable as error:
                if not (isinstance(error.__cause__, MilvusException) and error.__cause__.code == ILLEGAL_ARGUMENT_CODE):
                    self._doubtful = True
                self._refuse()  # says that the disk is full, if it is
                raise

        task = asyncio.create_task(self._reading(gates, whole), name="write")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not begun:
                task.cancel()
            raise

    async def _opened_again(self) -> None:
        await asyncio.shield(self._begin("reopening", self._open_again))

    async def _open_again(self) -> None:
        async with self._names.alone():
            if self._doubtful:
                log.warning("lite", problem="a write or a flush failed; opening the files again from their log")
                await self._workers.run(self._put_aside)
                self._client = await self._workers.run(self._connected, self._settings.milvus)
                self._doubtful = False

    async def _recover(self) -> None:
        while self._unflushed:
            await asyncio.sleep(RETRY_SECONDS)
            for name in sorted(self._unflushed):
                if self._free_bytes() > MIN_FREE_BYTES + self._log_bytes(name):
                    with contextlib.suppress(UpstreamUnavailable):
                        await self.flush(name)
        log.info("lite", recovered=True)

    def _begin(self, name: str, work: Callable[[], Any]) -> asyncio.Task[None]:
        """The task of that name, begun unless it runs."""
        task = self._background.get(name)
        if task is None or task.done():
            task = self._background[name] = asyncio.create_task(work(), name=name)
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def _refuse(self) -> None:
        """Raises UpstreamUnavailable if a write could not be kept."""
        free = self._free_bytes()
        if free < MIN_FREE_BYTES:
            problem = f"the disk is full: {free // MIB} MiB are left, {MIN_FREE_BYTES // MIB} must be"
            raise UpstreamUnavailable("milvus", problem)
        if self._unflushed:
            raise UpstreamUnavailable("milvus", "it could not write its files, and tries again; the log has why")

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._path).free

    def _log_bytes(self, name: str) -> int:
        """Size of what would be read again from a collection's log."""
        return sum(each.stat().st_size for each in self._folder(name).glob("wal/*"))

    def _folder(self, name: str) -> Path:
        return self._folders / name

    def _flush(self, name: str, timeout: float) -> None:
        self._client.flush(name, timeout=timeout)

    async def _load(self, name: str) -> None:
        try:
            await super().load(name)
        except UpstreamUnavailable:
            self._refuse()
            # A full disk may have cut a file of an index. They are made of the rows, so they can be made again.
            for each in self._folder(name).glob("partitions/*/indexes/*"):
                each.unlink()
            await super().load(name)

    def _connected(self, uri: str) -> MilvusClient:
        try:
            client = super()._connected(str(self._path))
            # Opens all of them: two calls that open one collection at once would have two.
            client.list_collections(timeout=PATIENCE_SECONDS)
        except MilvusException as error:
            raise UpstreamUnavailable("milvus", "it cannot open its files; the log has why") from error
        for folder in self._folders.iterdir():
            if not (folder / "schema.json").exists():  # a drop was cut
                shutil.rmtree(folder, ignore_errors=True)
        return client

    def _release(self) -> None:
        self._client.close()
        servers.release_server(str(self._path))

    def _put_aside(self) -> None:
        """Ends Lite as a kill would: closing it would flush, and delete the log of rows that it has forgotten."""
        self._client.close()
        server, db, _ = servers._servers.pop(str(self._path), (None, None, None))
        if server is None:
            return
        server.stop(None)
        for collection in db._collections.values():
            collection._bg_closed = True
            collection._bg_executor.shutdown(wait=True)
            for sink in (collection._wal._data_sink, collection._wal._delta_sink):
                if sink is not None:
                    sink.raw.close()  # what a failed write has left in its buffer must not follow later
        db._collections.clear()
        db.close()
