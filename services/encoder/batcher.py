"""Requests of different callers share a batch: all that waits when the device is free is computed together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from services.common.calls import seconds_left
from services.common.errors import DeadlineExceeded, Overloaded, ShuttingDown, UpstreamUnavailable
from services.encoder.engine import Vectors
from services.encoder.metrics import EncoderMetrics
from services.encoder.priority import give_way

log = structlog.get_logger()

Item = TypeVar("Item")
Vector = npt.NDArray[np.float32]

MIN_RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 5.0
# A request must be expected to finish this long before its deadline. A late vector would be of no use.
SAFETY = 1.5
# Weight of the newest batch in the running mean of seconds per item.
EWMA_ALPHA = 0.2
_NONE: Vector = np.empty(0, dtype=np.float32)


@dataclass(eq=False, slots=True)
class _Request:
    """The items of one call. It is answered when all of them have a vector."""

    answer: asyncio.Future[list[Vector]]
    vectors: list[Vector]
    missing: int
    deadline: float


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Item]):
    """An item in the queue, with the call that its vector belongs to."""

    request: _Request
    place: int
    item: Item
    key: Hashable
    since: float


@dataclass
class _Room:
    """The load of a tower: items that wait, are being prepared, or are on the device."""

    items: int = 0
    size_bytes: int = 0
    seconds_an_item: float = 0.0


class Batcher(Generic[Item]):
    """The queue and the worker thread of one tower.

    As soon as the worker is free, it takes up to `max_batch` waiting items: the oldest, and others with the same
    `alike` key. An idle worker starts at once. Items whose caller cancelled or whose deadline passed are dropped and
    never reach the device. A batch holds only as many items as can be computed before its earliest deadline, so that
    no item makes another one late. Call the methods only on the event loop that made the queue.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[Sequence[Item]], Vectors],
        metrics: EncoderMetrics,
        *,
        max_batch: int,
        max_items: int,
        max_bytes: int = 0,
        alike: Callable[[Item], Hashable] = lambda _: None,
    ) -> None:
        """`max_items` and `max_bytes` limit the load."""
        self.name = name
        self._compute, self._alike, self._metrics = compute, alike, metrics
        self._max_batch, self._max_items, self._max_bytes = max_batch, max_items, max_bytes
        self._room = _Room()
        self._last_success = -math.inf
        self._loop = asyncio.get_running_loop()
        # Shared with the worker, under the condition's lock.
        self._changed = threading.Condition()
        self._queue: dict[_Waiting[Item], None] = {}
        self._computing: list[_Waiting[Item]] = []
        self._closed = False
        self._ended = False
        metrics.waiting.labels(name).set_function(lambda: len(self._queue))
        metrics.in_hand.labels(name).set_function(lambda: self._room.items)
        self._worker = threading.Thread(target=self._work, name=name, daemon=True)
        self._worker.start()

    @contextmanager
    def admitted(self, items: int, size_bytes: int = 0) -> Iterator[None]:
        """Admit a request of `items` items, before any work is done for it, until the end of the block.

        Raises Overloaded if the load would exceed its limit, or if the deadline would pass before the request's turn.
        Raises ShuttingDown or UpstreamUnavailable if there is no worker.
        """
        self.check_worker()
        room, left = self._room, seconds_left()
        expected = (room.items + items) * room.seconds_an_item
        retry = min(max(expected, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)
        problem = ""
        if room.items + items > self._max_items:
            problem = f"{room.items:,} {self.name} are in hand; the limit is {self._max_items:,}"
        elif self._max_bytes and room.size_bytes + size_bytes > self._max_bytes:
            problem = f"{room.size_bytes:,} bytes of {self.name} are in hand; the limit is {self._max_bytes:,}"
        elif left is not None and expected * SAFETY > left:
            problem = f"{room.items:,} {self.name} are in hand, for {expected:.2f} s; the deadline is in {left:.2f} s"
        if problem:
            self._drop("overloaded", items)
            raise Overloaded(problem, retry)
        room.items += items
        room.size_bytes += size_bytes
        try:
            yield
        finally:
            room.items -= items
            room.size_bytes -= size_bytes

    async def submit(self, items: Sequence[Item]) -> list[Vector]:
        """The vectors [dim] of `items`, in their order. Raises DeadlineExceeded, and what the engine raises."""
        self.check_worker()
        left = seconds_left()
        now = time.monotonic()
        request = _Request(
            self._loop.create_future(),
            [_NONE] * len(items),
            len(items),
            math.inf if left is None else now + left,
        )
        waiting = [_Waiting(request, place, item, self._alike(item), now) for place, item in enumerate(items)]
        with self._changed:
            self._queue.update(dict.fromkeys(waiting))
            self._changed.notify()
        try:
            return await request.answer
        except asyncio.CancelledError:
            self._drop("cancelled", request.missing)
            raise
        finally:
            with self._changed:
                for each in waiting:
                    self._queue.pop(each, None)

    async def check(self, item: Item, fresh_seconds: float) -> None:
        """Pass if a batch was computed in the last `fresh_seconds`. Otherwise compute `item`."""
        self.check_worker()
        if time.monotonic() - self._last_success > fresh_seconds:
            await self.submit([item])

    def check_worker(self) -> None:
        """Raises ShuttingDown after `close`, UpstreamUnavailable if the worker died."""
        if self._closed:
            raise ShuttingDown
        if self._ended:
            raise self._dead()

    async def close(self) -> None:
        """End after the current batch. Waiting items are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._worker.join)
        await asyncio.sleep(0)  # the last batch's answers

    # The methods below run on the worker's thread.

    def _work(self) -> None:
        give_way()
        ended = -math.inf
        try:
            while batch := self._next():
                busy_since = max(ended, batch[0].since)
                started = time.monotonic()
                try:
                    result: Vectors | Exception = self._compute([each.item for each in batch])
                except Exception as error:
                    result = error
                ended = time.monotonic()
                self._tell(self._deliver, batch, result, started, ended, busy_since)
        finally:
            self._ended = True
            self._tell(self._refuse_rest)

    def _next(self) -> list[_Waiting[Item]]:
        """Wait for the next batch. Returns an empty one after `close`."""
        with self._changed:
            self._computing = []
            while not self._closed:
                batch, expired = self._take(time.monotonic())
                if expired:
                    self._tell(self._expire, expired)
                if batch:
                    self._computing = batch
                    return batch
                self._changed.wait()
        return []

    def _take(self, now: float) -> tuple[list[_Waiting[Item]], list[_Waiting[Item]]]:
        batch: list[_Waiting[Item]] = []
        expired: list[_Waiting[Item]] = []
        earliest, end = math.inf, now
        for each in self._queue:
            deadline = each.request.deadline
            if deadline <= now:
                expired.append(each)
            elif not batch or each.key == batch[0].key:
                earliest, end = min(earliest, deadline), end + self._room.seconds_an_item
                if len(batch) == self._max_batch or (batch and end > earliest):
                    break
                batch.append(each)
        for each in (*batch, *expired):
            del self._queue[each]
        return batch, expired

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller waits
            self._loop.call_soon_threadsafe(function, *arguments)

    # The methods below run on the event loop.

    def _deliver(
        self,
        batch: list[_Waiting[Item]],
        result: Vectors | Exception,
        started: float,
        ended: float,
        busy_since: float,
    ) -> None:
        self._metrics.batch.labels(self.name).observe(len(batch))
        self._metrics.compute.labels(self.name).observe(ended - started)
        wait = self._metrics.wait.labels(self.name)
        for each in batch:
            wait.observe(started - each.since)
        if isinstance(result, Exception):
            log.error("batch failed", tower=self.name, items=len(batch), problem=f"{type(result).__name__}: {result}")
            self._fail(batch, result, "failed")
            return
        self._last_success = time.monotonic()
        mean = self._room.seconds_an_item
        newest = (ended - busy_since) / len(batch)
        self._room.seconds_an_item = newest if mean == 0 else (1 - EWMA_ALPHA) * mean + EWMA_ALPHA * newest
        for each, vector in zip(batch, result, strict=True):
            request = each.request
            request.vectors[each.place] = vector
            request.missing -= 1
            if request.missing == 0 and not request.answer.done():
                request.answer.set_result(request.vectors)

    def _expire(self, expired: list[_Waiting[Item]]) -> None:
        self._fail(expired, DeadlineExceeded(f"the deadline passed in the queue of {self.name}"), "expired")

    def _fail(self, waiting: Sequence[_Waiting[Item]], error: Exception, cause: str) -> None:
        self._drop(cause, len(waiting))
        for each in waiting:
            if not each.request.answer.done():
                each.request.answer.set_exception(error)

    def _refuse_rest(self) -> None:
        with self._changed:
            left = [*self._computing, *self._queue]
            self._queue.clear()
        if self._closed:
            self._fail(left, ShuttingDown(), "closed")
        else:
            log.critical("worker died", tower=self.name)
            self._fail(left, self._dead(), "failed")

    def _dead(self) -> UpstreamUnavailable:
        return UpstreamUnavailable("model", f"the worker of the {self.name} died")

    def _drop(self, cause: str, count: int) -> None:
        self._metrics.dropped.labels(self.name, cause).inc(count)
