"""A vector backend in memory, slow at random, for tests of what happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from services.common.errors import UpstreamUnavailable
from services.retriever.backend import NoSuchCollection, Selection
from services.retriever.filters.conditions import Condition
from services.retriever.records import Consistency, Hit, Index, Metric, Record, Vector


class MemoryBackend:
    """Each call may wait before and after it takes effect; the effect itself is atomic, as a server's is."""

    kind = "memory"
    evaluates_filters = False
    index_types = frozenset({"FLAT"})
    default_index = Index("FLAT")
    max_hits = 1000

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        # How many nearest each search was asked for.
        self.limits: list[int] = []
        self.tables: dict[str, dict[str, Record]] = {}
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

    async def upsert(self, name: str, records: Sequence[Record]) -> None:
        await self.pause()
        self._table(name).update({record.image_id: record for record in records})
        await self.pause()

    async def delete(self, name: str, image_ids: Sequence[str]) -> None:
        await self.pause()
        table = self._table(name)
        for image_id in image_ids:
            table.pop(image_id, None)
        await self.pause()

    async def fetch(
        self, name: str, image_ids: Sequence[str], with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        await self.pause()
        table = self._table(name)
        records = [table[image_id] for image_id in image_ids if image_id in table]
        await self.pause()
        return records

    async def page(
        self, name: str, last: str, size: int, where: Condition | None, with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        await self.pause()
        table = self._table(name)
        records = [table[key] for key in sorted(key for key in table if key > last)[:size]]
        await self.pause()
        return records

    async def version(self) -> str:
        return "memory"

    async def check(self) -> None:
        await self.collections()

    async def load(self, name: str) -> None:
        self._table(name)

    async def count(self, name: str, where: Condition | None, consistency: Consistency) -> int:
        return len(self._table(name))

    async def indexed(self, name: str) -> int:
        return len(self._table(name))

    async def search(
        self,
        name: str,
        vectors: Sequence[Vector],
        limit: int,
        among: Selection,
        *,
        metric: Metric,
        index_type: str,
        parameters: Mapping[str, int],
        with_vectors: bool,
        consistency: Consistency,
    ) -> list[list[Hit]]:
        """By inner product alone. Ties come in the reverse order of the ids, which no caller may rely on."""
        assert among is None or isinstance(among, Sequence), "it evaluates no conditions"
        self.limits.append(limit)
        await self.pause()
        table = self._table(name)
        records = [table[key] for key in sorted(table, reverse=True) if among is None or key in among]
        answers = [[_hit(vector, record, with_vectors) for record in records] for vector in vectors]
        await self.pause()
        return [sorted(hits, key=lambda hit: -hit.score)[:limit] for hits in answers]

    async def close(self) -> None:
        pass

    def _table(self, name: str) -> dict[str, Record]:
        if name not in self.tables:
            raise NoSuchCollection(name)
        return self.tables[name]


def _hit(vector: Vector, record: Record, with_vectors: bool) -> Hit:
    assert record.vector is not None
    score = float(vector @ record.vector)
    return Hit(record.image_id, score, record.attributes, record.vector if with_vectors else None)
