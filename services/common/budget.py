"""How many bytes of requests a process works on at once."""

from __future__ import annotations

import asyncio

from services.common.errors import Overloaded


class Budget:
    """Bytes in hand. One claim always fits into an empty budget, however large it is."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._waiting_bytes = 0
        self._freed = asyncio.Event()

    def claim(self, size_bytes: int) -> None:
        """`give_back` ends it. Raises Overloaded if there is no room now."""
        if not self._fits(size_bytes):
            raise self._full()
        self.held_bytes += size_bytes

    async def take(self, size_bytes: int) -> None:
        """As `claim`, but waits for room. What waits is limited in the same way. Raises Overloaded."""
        if not self._fits(size_bytes):
            if self._waiting_bytes and self._waiting_bytes + size_bytes > self.limit_bytes:
                raise self._full()
            self._waiting_bytes += size_bytes
            try:
                while not self._fits(size_bytes):
                    self._freed.clear()
                    await self._freed.wait()
            finally:
                self._waiting_bytes -= size_bytes
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
        self._freed.set()

    def _fits(self, size_bytes: int) -> bool:
        return self.held_bytes == 0 or self.held_bytes + size_bytes <= self.limit_bytes

    def _full(self) -> Overloaded:
        return Overloaded(f"{self.held_bytes:,} bytes of requests are in hand; the limit is {self.limit_bytes:,}")
