"""What the store asks of a vector database. Milvus is the one there is; tests bring one in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from services.retriever.records import Index, Metric, Vector

Row = dict[str, Any]


class NoSuchCollection(Exception):
    """The backend has no collection or alias of that name."""


class NotLoaded(Exception):
    """The collection is there and not in memory, as in a Lite file that was opened again, or in a restored backup."""


class VectorBackend(Protocol):
    """Physical collections of rows, and aliases for them.

    All methods raise DeadlineExceeded and UpstreamUnavailable; those that name a collection NoSuchCollection too, and
    those that read or write rows NotLoaded. Rows have the fields of literals.py.
    """

    @property
    def is_lite(self) -> bool:
        """Whether it is for small collections: it has no filters of its own, and its best index is FLAT."""

    @property
    def index_types(self) -> frozenset[str]:
        """Those that it builds, by Milvus's names."""

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

    async def upsert(self, name: str, rows: list[Row]) -> None: ...

    async def delete(self, name: str, expression: str) -> None: ...

    async def count(self, name: str, expression: str, consistency: str) -> int: ...

    async def indexed(self, name: str) -> int:
        """How many rows the index holds."""

    async def query(self, name: str, expression: str, fields: list[str], consistency: str) -> list[Row]: ...

    async def page(
        self, name: str, last: str, size: int, expression: str, fields: list[str], consistency: str
    ) -> list[Row]:
        """The rows of `expression` with the `size` smallest keys after `last`, in order."""

    async def search(
        self,
        name: str,
        vectors: list[Vector],
        limit: int,
        metric: Metric,
        parameters: Mapping[str, int],
        expression: str,
        fields: list[str],
        consistency: str,
    ) -> list[list[Row]]:
        """The rows of `expression` nearest to each vector, each with `distance` as the metric has it and `entity`."""

    async def close(self) -> None: ...
