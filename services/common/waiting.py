"""Ends waits for the other side after a limit.

A timer per wait would double the cost of a small call. So all waits are checked periodically, and a wait ends at most
an eighth of the limit too late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from services.common.errors import IdleCall

Result = TypeVar("Result")


class Wait:
    """One wait of a task."""

    __slots__ = ("forgiven", "given_up", "since", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = asyncio.current_task()
        self.since = time.monotonic()
        self.forgiven = False  # the other side may wait too
        self.given_up = False


class Patience:
    """The waits of a process. Each of them lasts at most `seconds`, plus an eighth."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waits: set[Wait] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, wait: Wait, awaited: Awaitable[Result], what: str) -> Result:
        """The result of `awaited`. Raises IdleCall with the text `what` if it takes too long."""
        self._waits.add(wait)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds / 8, self._look)
        try:
            return await awaited
        except asyncio.CancelledError:
            if not wait.given_up or wait.task is None:
                raise
            wait.task.uncancel()
            raise IdleCall(what, self.seconds) from None
        finally:
            self._waits.discard(wait)

    def _look(self) -> None:
        now = time.monotonic()
        for wait in self._waits:
            if now - wait.since >= self.seconds and not wait.forgiven and not wait.given_up and wait.task is not None:
                wait.given_up = True
                wait.task.cancel()
        self._timer = asyncio.get_running_loop().call_later(self.seconds / 8, self._look) if self._waits else None
