"""What the store asks of a vector database, in the store's own terms. Tests bring one in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from services.retriever.filters.conditions import Condition
from services.retriever.records import Consistency, Hit, Index, Metric, Record, Vector

# Which rows: those for which a condition holds, those of these ids, or all.
Selection: TypeAlias = Condition | Sequence[str] | None


class NoSuchCollection(Exception):
    """The backend has no collection or alias of that name."""


class NotLoaded(Exception):
    """The collection is there and not in memory, as in a file that was opened again, or in a restored backup."""


class VectorBackend(Protocol):
    """Physical collections of records, and aliases for them.

    All methods raise DeadlineExceeded and UpstreamUnavailable; those that name a collection NoSuchCollection too, and
    those that read or write records NotLoaded.
    """

    @property
    def kind(self) -> str:
        """The product, as operators know it."""

    @property
    def evaluates_filters(self) -> bool:
        """Whether it can be asked for the rows for which a condition holds.

        If not, it is never given a condition: the store reads the rows and compares them itself.
        """

    @property
    def index_types(self) -> frozenset[str]:
        """Those that it builds, by the contract's names without their prefix."""

    @property
    def default_index(self) -> Index:
        """The one for a collection of which nobody said the index."""

    @property
    def max_hits(self) -> int:
        """The most that one search returns for each vector."""

    async def version(self) -> str: ...

    async def check(self) -> None:
        """Passes if the backend answers and takes writes."""

    async def collections(self) -> list[str]:
        """The names of all physical collections."""

    async def describe(self, name: str) -> tuple[str, dict[str, Any] | None]:
        """Physical name behind a name or an alias, and the settings kept with it."""

    async def create(self, name: str, dim: int, metric: Metric, index: Index, settings: Mapping[str, Any]) -> None:
        """An empty, loaded collection. Its settings never change."""

    async def load(self, name: str) -> None: ...

    async def drop(self, name: str) -> None:
        """Passes if there is none."""

    async def create_alias(self, name: str, alias: str) -> None: ...

    async def move_alias(self, name: str, alias: str) -> None: ...

    async def drop_alias(self, alias: str) -> None: ...

    async def upsert(self, name: str, records: Sequence[Record]) -> None:
        """Adds or replaces records, which have their vectors."""

    async def delete(self, name: str, image_ids: Sequence[str]) -> None: ...

    async def count(self, name: str, where: Condition | None, consistency: Consistency) -> int: ...

    async def indexed(self, name: str) -> int:
        """How many records the index holds."""

    async def fetch(
        self, name: str, image_ids: Sequence[str], with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        """Those of the ids that are there, in any order."""

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
        """The `limit` nearest of each vector, best first. What `parameters` do not name has its default."""

    async def close(self) -> None: ...
