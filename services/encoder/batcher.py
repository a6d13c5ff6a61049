"""Requests of different callers share a batch: what waits when the device is free goes together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.common.calls import seconds_left
from services.common.errors import DeadlineExceeded, Overloaded, ShuttingDown
from services.encoder.engine import Vectors

Item = TypeVar("Item")


@dataclass
class _Waiting(Generic[Item]):
    item: Item
    result: asyncio.Future[list[float]]
    deadline: float | None


class Batcher(Generic[Item]):
    """A queue and one worker of a tower. An idle worker starts at once; a busy one takes all that came meanwhile.

    Items whose caller left or whose deadline passed never reach the device, and do not disturb their neighbours.
    """

    def __init__(
        self, name: str, compute: Callable[[Sequence[Item]], Vectors], *, max_batch: int, max_queue: int
    ) -> None:
        self._name, self._compute = name, compute
        self._max_batch, self._max_queue = max_batch, max_queue
        self._queue: deque[_Waiting[Item]] = deque()
        self._arrived = asyncio.Event()
        self._last_success = -math.inf
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._worker = asyncio.create_task(self._work(), name=name)

    def check_room(self, count: int) -> None:
        """Raises Overloaded where `count` more items do not fit in the queue, ShuttingDown where the worker is gone."""
        if self._worker.done():
            raise ShuttingDown
        if len(self._queue) + count > self._max_queue:
            raise Overloaded(f"{len(self._queue)} {self._name} are waiting; the limit is {self._max_queue}")

    async def submit(self, items: Sequence[Item]) -> list[list[float]]:
        """The vectors of `items`, in their order. Raises Overloaded, DeadlineExceeded, ShuttingDown."""
        self.check_room(len(items))
        left = seconds_left()
        deadline = None if left is None else time.monotonic() + left
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(item, loop.create_future(), deadline) for item in items]
        self._queue.extend(waiting)
        self._arrived.set()
        try:
            return list(await asyncio.gather(*(each.result for each in waiting)))
        finally:
            for each in waiting:
                each.result.cancel()

    async def check(self, item: Item, fresh_seconds: float) -> None:
        """Passes where a batch was computed in the last `fresh_seconds`, or where `item` is computed now."""
        self.check_room(0)
        if time.monotonic() - self._last_success > fresh_seconds:
            await self.submit([item])

    async def close(self) -> None:
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        for each in self._queue:
            if not each.result.done():
                each.result.set_exception(ShuttingDown())
        self._queue.clear()
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                self._arrived.clear()
                continue
            try:
                vectors = await loop.run_in_executor(self._thread, self._compute_lists, [each.item for each in batch])
            except Exception as error:
                for each in batch:
                    if not each.result.done():
                        each.result.set_exception(error)
                continue
            self._last_success = time.monotonic()
            for each, vector in zip(batch, vectors, strict=True):
                if not each.result.done():
                    each.result.set_result(vector)

    def _compute_lists(self, items: Sequence[Item]) -> list[list[float]]:
        lists: list[list[float]] = self._compute(items).tolist()
        return lists

    def _take(self) -> list[_Waiting[Item]]:
        batch: list[_Waiting[Item]] = []
        now = time.monotonic()
        while self._queue and len(batch) < self._max_batch:
            each = self._queue.popleft()
            if each.result.done():
                continue
            if each.deadline is not None and each.deadline <= now:
                each.result.set_exception(DeadlineExceeded(f"the deadline passed in the queue of {self._name}"))
                continue
            batch.append(each)
        return batch
