"""A short cache of the retriever's collections, so that not every call asks it again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.upstreams.retriever import RetrieverClient
from protos import retriever_pb2
from services.common.errors import CollectionNotFound

# How long a cached collection is trusted.
KNOWN_SECONDS = 1.0
Result = TypeVar("Result")


class KnownCollections:
    """Collections by id, each with the time of its answer."""

    def __init__(self, retriever: RetrieverClient) -> None:
        self._retriever = retriever
        self._known: dict[str, tuple[float, retriever_pb2.VectorCollection]] = {}

    async def get(self, collection: str, fresh: bool = False) -> retriever_pb2.VectorCollection:
        """A collection, from the cache unless `fresh`. Raises CollectionNotFound."""
        known = self._known.get(collection)
        if fresh or known is None or time.monotonic() - known[0] > KNOWN_SECONDS:
            self._known.pop(collection, None)
            found = await self._retriever.get_collection(collection, fresh=fresh)
            known = self._known[collection] = (time.monotonic(), found)
        return known[1]

    async def drop(self, collection: str) -> str:
        """Drop the vectors. Returns the id of the dropped creation, or an empty text if there was none."""
        self._known.pop(collection, None)
        return await self._retriever.drop_vectors(collection)

    async def on_creation(self, collection: str, work: Callable[[str], Awaitable[Result]]) -> Result:
        """Run `work` with the creation of a collection, and once more if the collection was created again."""
        known = (await self.get(collection)).creation_id
        try:
            return await work(known)
        except CollectionNotFound:
            current = (await self.get(collection, fresh=True)).creation_id
            if current == known:
                raise
        return await work(current)
