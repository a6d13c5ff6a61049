"""Milvus Lite compares rows that it has not flushed one by one: 1,400 cost a search 30 ms. So they are flushed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import Context

import structlog

from services.common.errors import WentuError

log = structlog.get_logger()

# Fewer rows cost a search little, and each flush makes a file.
MIN_ROWS = 200
IDLE_SECONDS = 0.5


class IdleFlush:
    """Flushes a collection once enough was written to it and nothing more came for a moment."""

    def __init__(self, flush: Callable[[str], Awaitable[None]]) -> None:
        self._flush = flush
        self._rows: Counter[str] = Counter()
        self._waiting: dict[str, asyncio.Task[None]] = {}

    def wrote(self, name: str, rows: int) -> None:
        """To be told of every write."""
        self._rows[name] += rows
        if (waiting := self._waiting.pop(name, None)) is not None:
            waiting.cancel()
        if self._rows[name] >= MIN_ROWS:
            # In a context of its own: the writer's deadline is not the flush's.
            self._waiting[name] = asyncio.create_task(self._later(name), name="flush", context=Context())

    async def close(self) -> None:
        waiting = list(self._waiting.values())
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _later(self, name: str) -> None:
        await asyncio.sleep(IDLE_SECONDS)
        # From here on the next write does not cancel it: it waits for its own turn.
        self._waiting.pop(name, None)
        del self._rows[name]
        try:
            await self._flush(name)
        except WentuError as error:  # the rows are in the log, and the backend sees to it
            log.warning("flush", problem=error.message)
