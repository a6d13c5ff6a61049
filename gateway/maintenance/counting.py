"""Counts both stores in the background, so that operators see the leftovers of interruptions."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from gateway.metrics import GatewayMetrics
from gateway.upstreams.clients import Clients
from services.common.errors import WentuError
from services.common.limits import MAX_PAGE_SIZE

log = structlog.get_logger()

# The number of counts that decide for a collection which is written to all the time.
LOOKS = 10
# At most a tenth of the time is spent on counting, for any number and size of collections.
REST = 9
REMEDY = "wentu reconcile"


@dataclass(frozen=True)
class StoreCounts:
    """Of one collection."""

    images: int
    vectors: int

    @property
    def difference(self) -> int:
        return self.images - self.vectors


def standing(looks: deque[StoreCounts]) -> StoreCounts | None:
    """The counts, if their difference is not just a running write. Otherwise None. `looks` are in order of time.

    The difference is real if nothing changed between two counts, or if many counts differ in the same direction. In the
    second case the smallest difference is the best estimate.
    """
    if len(looks) >= 2 and looks[-1] == looks[-2]:
        return looks[-1] if looks[-1].difference else None
    sides = {(each.difference > 0) - (each.difference < 0) for each in looks}
    if len(looks) == LOOKS and len(sides) == 1 and 0 not in sides:
        return min(looks, key=lambda each: abs(each.difference))
    return None


class Counter:
    """Counts all collections repeatedly, one after the other."""

    def __init__(self, clients: Clients, metrics: GatewayMetrics, every_seconds: float) -> None:
        self._clients = clients
        self._metrics = metrics
        self._every_seconds = every_seconds
        self._looks: dict[str, deque[StoreCounts]] = {}
        self.found: dict[str, StoreCounts] = {}
        self._task = asyncio.create_task(self._run(), name="count") if every_seconds else None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Count every collection once. Raises WentuError if the retriever does not list them."""
        there = await self._collections()
        for collection in self._looks.keys() - there.keys():
            self._forget(collection)
        for collection, creation_id in sorted(there.items()):
            try:
                # Images first: a write between the two counts then shows too many vectors, and only for a moment.
                images = (
                    await self._clients.imagestore.count_blobs(collection, creation_id=creation_id, images_only=True)
                ).count
                counts = StoreCounts(images, await self._clients.retriever.count_vectors(collection))
            except WentuError:
                continue  # the services' health shows the failure, and the last known counts stay
            looks = self._looks.setdefault(collection, deque(maxlen=LOOKS))
            looks.append(counts)
            self._tell(collection, standing(looks))

    def _tell(self, collection: str, counts: StoreCounts | None) -> None:
        if counts is None:
            if self.found.pop(collection, None) is not None:
                self._metrics.store_difference.remove(collection)
            return
        if self.found.get(collection) != counts:
            log.warning(
                "the stores differ",
                collection=collection,
                images=counts.images,
                vectors=counts.vectors,
                remedy=f"{REMEDY} {collection}",
            )
        self.found[collection] = counts
        self._metrics.store_difference.labels(collection).set(counts.difference)

    def _forget(self, collection: str) -> None:
        del self._looks[collection]
        self._tell(collection, None)

    async def _collections(self) -> dict[str, str]:
        """The creation ids by collection."""
        found: dict[str, str] = {}
        token = ""
        while True:
            page = await self._clients.retriever.list_collections(MAX_PAGE_SIZE, token)
            found |= {each.collection: each.creation_id for each in page.collections}
            if not (token := page.next_page_token):
                return found

    async def _run(self) -> None:
        await repeat(self.look, self._every_seconds)


async def repeat(work: Callable[[], Awaitable[None]], every_seconds: float) -> None:
    """Run `work` every `seconds`, and less often if it takes long. Its errors are logged."""
    while True:
        started = time.monotonic()
        try:
            await work()
        except WentuError:
            pass  # an upstream is down, which its health shows
        except Exception:
            log.exception("counting the stores failed")
        took = time.monotonic() - started
        await asyncio.sleep(max(every_seconds - took, REST * took))
