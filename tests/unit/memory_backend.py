"""A vector backend in memory, slow at random, for tests of what happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any

from services.common.errors import UpstreamUnavailable
from services.retriever.backend import NoSuchCollection, Row
from services.retriever.milvus.literals import KEY, any_of
from services.retriever.records import Index, Metric


class MemoryBackend:
    """Each call may wait before and after it takes effect; the effect itself is atomic, as a server's is."""

    is_lite = False
    index_types = frozenset({"FLAT"})

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.tables: dict[str, dict[str, Row]] = {}
        self.aliases: dict[str, str] = {}
        self._settings: dict[str, Mapping[str, Any]] = {}

    async def pause(self) -> None:
        """Often none, mostly short, sometimes longer than what a retriever remembers is good for."""
        draw = self._rng.random()
        if draw < 0.5:
            await asyncio.sleep(0.01 * draw if draw < 0.4 else 0.5 * draw if draw < 0.48 else 5 * draw)

    async def collections(self) -> list[str]:
        await self.pause()
        names = list(self.tables)
        await self.pause()
        return names

    async def describe(self, name: str) -> tuple[str, dict[str, Any] | None]:
        await self.pause()
        physical = self.aliases.get(name, name)
        self._table(physical)
        settings = dict(self._settings[physical])
        await self.pause()
        return physical, settings

    async def create(self, name: str, dim: int, metric: Metric, index: Index, settings: Mapping[str, Any]) -> None:
        await self.pause()
        self.tables[name] = {}
        self._settings[name] = json.loads(json.dumps(settings))
        await self.pause()

    async def drop(self, name: str) -> None:
        await self.pause()
        # As a server of version 2.3 does, with its aliases.
        self.tables.pop(name, None)
        self.aliases = {alias: table for alias, table in self.aliases.items() if table != name}
        await self.pause()

    async def create_alias(self, name: str, alias: str) -> None:
        await self.pause()
        self._table(name)
        if alias in self.aliases:
            raise UpstreamUnavailable("milvus", "there is such an alias")
        self.aliases[alias] = name
        await self.pause()

    async def move_alias(self, name: str, alias: str) -> None:
        await self.pause()
        self._table(name)
        if alias not in self.aliases:
            raise NoSuchCollection(alias)
        self.aliases[alias] = name
        await self.pause()

    async def drop_alias(self, alias: str) -> None:
        await self.pause()
        if self.aliases.pop(alias, None) is None:
            raise NoSuchCollection(alias)
        await self.pause()

    async def upsert(self, name: str, rows: list[Row]) -> None:
        await self.pause()
        self._table(name).update({row[KEY]: row for row in rows})
        await self.pause()

    async def delete(self, name: str, expression: str) -> None:
        await self.pause()
        table = self._table(name)
        for key in [key for key in table if _names(expression, key)]:
            del table[key]
        await self.pause()

    async def query(self, name: str, expression: str, fields: list[str], consistency: str) -> list[Row]:
        await self.pause()
        rows = [row for key, row in self._table(name).items() if _names(expression, key)]
        await self.pause()
        return rows

    async def page(
        self, name: str, last: str, size: int, expression: str, fields: list[str], consistency: str
    ) -> list[Row]:
        await self.pause()
        table = self._table(name)
        rows = [table[key] for key in sorted(key for key in table if key > last)[:size]]
        await self.pause()
        return rows

    async def version(self) -> str:
        return "memory"

    async def check(self) -> None:
        await self.collections()

    async def load(self, name: str) -> None:
        self._table(name)

    async def count(self, name: str, expression: str, consistency: str) -> int:
        return len(self._table(name))

    async def indexed(self, name: str) -> int:
        return len(self._table(name))

    async def search(self, name: str, *args: Any) -> list[list[Row]]:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def _table(self, name: str) -> dict[str, Row]:
        if name not in self.tables:
            raise NoSuchCollection(name)
        return self.tables[name]


def _names(expression: str, key: str) -> bool:
    """Whether an expression of the form of `any_of` names the key."""
    return any_of([key]).partition("[")[2].rstrip("]") in expression
