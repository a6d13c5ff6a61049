"""Bytes that a process may hold at once for one purpose. A request that needs more waits its turn or is refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from types import TracebackType
from typing import Self

from services.common.errors import DeadlineExceeded, Overloaded

# The retry delay: about the time that a large answer or image takes.
RETRY_SECONDS = 0.5


class ByteBudget:
    """First come, first served, for threads and for the event loop alike.

    A share that is larger than the whole budget is not refused. It waits until no other share holds bytes.
    """

    def __init__(self, limit_bytes: int, what: str, max_waiting_bytes: int | None = None) -> None:
        """`max_waiting_bytes` limits requests that already hold memory while they wait."""
        self.limit_bytes = limit_bytes
        self.what = what
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._used_bytes = 0
        self._waiting: deque[tuple[int, concurrent.futures.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def share(self) -> Share:
        """An empty share. It takes bytes from the budget, and returns them when it is released."""
        return Share(self)

    def _ask(self, size: int) -> concurrent.futures.Future[None] | None:
        """A future that is done after `size` bytes were taken. None if too many bytes wait already."""
        turn: concurrent.futures.Future[None] = concurrent.futures.Future()
        limit = self._max_waiting_bytes
        with self._lock:
            if limit is not None and self._waiting_bytes and self._waiting_bytes + size > limit:
                return None
            self._waiting.append((size, turn))
            self._waiting_bytes += size
            self._serve()
        return turn

    def _take_now(self, size: int, in_turn: bool) -> bool:
        """Take `size` bytes if they are free. With `in_turn`, only if no other request waits."""
        with self._lock:
            if (in_turn and self._waiting) or not self._fits(size):
                return False
            self._used_bytes += size
            return True

    def _fits(self, size: int) -> bool:
        return self._used_bytes == 0 or self._used_bytes + size <= self.limit_bytes

    def _give(self, size: int) -> None:
        with self._lock:
            self._used_bytes -= size
            self._serve()

    def _leave(self, turn: concurrent.futures.Future[None], size: int) -> None:
        """Give up a turn, before or after it came."""
        self._give(0 if turn.cancel() else size)

    def _serve(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled() and not self._fits(size):
                return
            self._waiting.popleft()
            self._waiting_bytes -= size
            if turn.set_running_or_notify_cancel():
                self._used_bytes += size
                turn.set_result(None)


class Share:
    """The bytes of a budget that one request holds. Not for several threads at once."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def take(self, size: int, seconds: float | None) -> None:
        """Wait on this thread for `size` bytes, at most `seconds`. A share waits only once, to avoid deadlocks.

        Returns at once if the share holds that many bytes. Raises DeadlineExceeded.
        """
        if 0 < size <= self._size:
            return
        turn = self._ask(size)
        try:
            turn.result(seconds)
        except BaseException as error:
            self._budget._leave(turn, size)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"the deadline passed while {self._budget.what} waited for memory") from error
            raise
        self._size = size

    async def wait(self, size: int, seconds: float | None) -> None:
        """As `take`, but on the event loop. Raises Overloaded after `seconds`."""
        if self._budget._take_now(size, in_turn=True):
            self._size = size
            return
        turn = self._ask(size)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wrap_future(turn)
        except BaseException as error:
            self._budget._leave(turn, size)
            if isinstance(error, TimeoutError):
                raise self._overloaded() from error
            raise
        self._size = size

    def grow(self, size: int) -> None:
        """Take `size` more bytes at once, ahead of waiting requests. Raises Overloaded if they are not free."""
        if not self._budget._take_now(size, in_turn=False):
            raise self._overloaded()
        self._size += size

    def shrink(self, size: int) -> None:
        """Keep `size` bytes and return the others."""
        if size < self._size:
            self._budget._give(self._size - size)
            self._size = size

    def release(self) -> None:
        """Return all bytes. A second call does nothing."""
        self.shrink(0)

    def _ask(self, size: int) -> concurrent.futures.Future[None]:
        assert self._size == 0, "a share that holds bytes must not wait for more"
        turn = self._budget._ask(size)
        if turn is None:
            raise self._overloaded()
        return turn

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"{self._budget.what} may hold {self._budget.limit_bytes:,} bytes at once, which are in use", RETRY_SECONDS
        )
