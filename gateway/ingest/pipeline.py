"""Imports a stream of images in batches. Several batches run at once. Each is acknowledged when it finishes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from gateway.ingest.importer import Outcome
from gateway.settings import GatewaySettings
from protos import types_pb2

# Adds a batch of images with distinct ids. Returns one outcome per image, in order.
Add = Callable[[Sequence[types_pb2.ImageUpload]], Awaitable[list[Outcome]]]


@dataclass(frozen=True)
class Finished:
    """An image's index in the stream, its id, and its outcome."""

    index: int
    image_id: str
    outcome: Outcome


@dataclass(frozen=True)
class _Item:
    index: int
    upload: types_pb2.ImageUpload
    # Stored once, since each read of `upload.data` copies the bytes.
    size_bytes: int


class Pipeline:
    """Reads uploads only as fast as they are processed.

    A free worker takes waiting images, up to the batch's limits. An id that is being processed is not taken again
    until it is done, so that the last of several images with one id is kept.
    """

    def __init__(self, add: Add, settings: GatewaySettings) -> None:
        self._add = add
        self._settings = settings
        self._waiting: deque[_Item] = deque()
        self._busy: set[str] = set()
        self._ended = False
        self._changed = asyncio.Condition()
        self._finished: asyncio.Queue[Finished | BaseException | None] = asyncio.Queue()

    async def run(self, uploads: AsyncIterator[types_pb2.ImageUpload]) -> AsyncIterator[Finished]:
        """The outcomes, in order of completion. An error of `uploads` is raised after all images before it are done."""
        reader = asyncio.create_task(self._read(uploads), name="import-reader")
        workers = [
            asyncio.create_task(self._work(), name="import-worker") for _ in range(self._settings.import_workers)
        ]
        ending = asyncio.create_task(self._end(reader, workers), name="import-end")
        try:
            while (finished := await self._finished.get()) is not None:
                if isinstance(finished, BaseException):
                    raise finished
                yield finished
        finally:
            for task in (reader, *workers, ending):
                task.cancel()
            await asyncio.gather(reader, *workers, ending, return_exceptions=True)

    async def _end(self, reader: asyncio.Task[None], workers: Sequence[asyncio.Task[None]]) -> None:
        """Ends the stream at once if a worker fails. If the reader fails, earlier images are finished first."""
        await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        broken = [error for worker in workers if worker.done() and (error := worker.exception())]
        if not broken:
            await asyncio.wait([reader])
            broken = [error] if (error := reader.exception()) else []
        await self._finished.put(broken[0] if broken else None)

    async def _read(self, uploads: AsyncIterator[types_pb2.ImageUpload]) -> None:
        index = 0
        try:
            async for upload in uploads:
                async with self._changed:
                    await self._changed.wait_for(self._has_room)
                    self._waiting.append(_Item(index, upload, len(upload.data)))
                    self._changed.notify_all()
                index += 1
        finally:
            async with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        size = sum(item.size_bytes for item in self._waiting)
        return len(self._waiting) < self._settings.import_waiting and size < 2 * self._settings.import_batch_bytes

    async def _work(self) -> None:
        while batch := await self._take():
            ids = {item.upload.image_id for item in batch}
            outcomes = await self._add([item.upload for item in batch])
            for item, outcome in zip(batch, outcomes, strict=True):
                await self._finished.put(Finished(item.index, item.upload.image_id, outcome))
            async with self._changed:
                self._busy -= ids
                self._changed.notify_all()

    async def _take(self) -> list[_Item]:
        """The next batch. Empty at the end of the stream."""
        async with self._changed:
            await self._changed.wait_for(self._can_take)
            batch: list[_Item] = []
            ids: set[str] = set()
            size = 0
            while self._waiting and len(batch) < self._settings.import_batch:
                first = self._waiting[0]
                size += first.size_bytes
                if first.upload.image_id in self._busy | ids or (batch and size > self._settings.import_batch_bytes):
                    break
                ids.add(first.upload.image_id)
                batch.append(self._waiting.popleft())
            self._busy |= ids
            self._changed.notify_all()
            return batch

    def _can_take(self) -> bool:
        if not self._waiting:
            return self._ended
        return self._waiting[0].upload.image_id not in self._busy
