"""The interface of a vector database, in the terms of the retriever's store. Tests have a backend in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from services.retriever.filters.conditions import Condition
from services.retriever.records import Consistency, Hit, Index, Metric, Record, Vector

# Selects records: those that match a condition, those with these ids, or all.
Selection: TypeAlias = Condition | Sequence[str] | None


class NoSuchCollection(Exception):
    """The backend has no collection or alias of that name."""


class NotLoaded(Exception):
    """The collection exists but is not in memory, for example after a file was reopened or a backup was restored."""


class VectorBackend(Protocol):
    """Physical collections of records, and aliases for them.

    All methods raise DeadlineExceeded and UpstreamUnavailable. Methods that name a collection also raise
    NoSuchCollection, and methods that read or write records also raise NotLoaded.
    """

    @property
    def kind(self) -> str:
        """The product's name for operators."""

    @property
    def evaluates_filters(self) -> bool:
        """Whether the backend can select records by a condition.

        If not, it never gets a condition: the store reads all records and evaluates the condition itself.
        """

    @property
    def index_types(self) -> frozenset[str]:
        """The index types that it can build, by the contract's names without their prefix."""

    @property
    def default_index(self) -> Index:
        """The index of a collection whose creator named none."""

    @property
    def max_hits(self) -> int:
        """The most hits per vector that one search returns."""

    async def version(self) -> str: ...

    async def check(self) -> None:
        """Pass if the backend answers and accepts writes."""

    async def collections(self) -> list[str]:
        """The names of all physical collections."""

    async def describe(self, name: str) -> tuple[str, dict[str, Any] | None]:
        """The physical name of a name or an alias, and the settings that are stored with it."""

    async def create(self, name: str, dim: int, metric: Metric, index: Index, settings: Mapping[str, Any]) -> None:
        """Create an empty, loaded collection. Its settings never change."""

    async def load(self, name: str) -> None: ...

    async def drop(self, name: str) -> None:
        """Drop a collection. Does nothing if it does not exist."""

    async def create_alias(self, name: str, alias: str) -> None: ...

    async def move_alias(self, name: str, alias: str) -> None: ...

    async def drop_alias(self, alias: str) -> None: ...

    async def upsert(self, name: str, records: Sequence[Record]) -> None:
        """Add or replace records. Each has its vector."""

    async def delete(self, name: str, image_ids: Sequence[str]) -> None: ...

    async def count(self, name: str, where: Condition | None, consistency: Consistency) -> int: ...

    async def indexed(self, name: str) -> int:
        """The number of records in the index."""

    async def fetch(
        self, name: str, image_ids: Sequence[str], with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        """The records that exist for these ids, in any order."""

    async def page(
        self, name: str, last: str, size: int, where: Condition | None, with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        """The records with the `size` smallest ids after `last`, in the order of the ids' bytes."""

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
        """The `limit` nearest records per vector, best first. Parameters that are not given have their defaults."""

    async def close(self) -> None: ...
