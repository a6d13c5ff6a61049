"""A lock that many may share or one may have alone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """First come, first served: one that waits to be alone is not passed by others who would share."""

    def __init__(self) -> None:
        self._inside = 0  # -1 while one is alone
        self._queue: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        await self._enter(alone=False)
        try:
            yield
        finally:
            self._leave()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        await self._enter(alone=True)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, alone: bool) -> None:
        if not self._queue and self._fits(alone):
            self._let_in(alone)
            return
        place: tuple[bool, asyncio.Future[None]] = (alone, asyncio.get_running_loop().create_future())
        self._queue.append(place)
        try:
            await place[1]
        except asyncio.CancelledError:
            if not place[1].cancelled():  # let in at the moment of the cancellation
                self._leave()
            elif place in self._queue:
                self._queue.remove(place)
                self._admit()
            raise

    def _leave(self) -> None:
        self._inside = max(0, self._inside - 1)
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            alone, place = self._queue.popleft()
            if not place.done():
                self._let_in(alone)
                place.set_result(None)

    def _fits(self, alone: bool) -> bool:
        return self._inside == 0 or (self._inside > 0 and not alone)

    def _let_in(self, alone: bool) -> None:
        self._inside = -1 if alone else self._inside + 1
