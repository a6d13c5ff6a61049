"""Counting both stores in the background, so that what an interruption left is seen before somebody searches for it."""

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

# A collection that never rests is judged by so many looks.
LOOKS = 10
# At most a tenth of the time is spent on counting, however many collections there are and however large.
REST = 9
REMEDY = "wentu reconcile"


@dataclass(frozen=True)
class Counts:
    """Of one collection."""

    images: int
    vectors: int

    @property
    def difference(self) -> int:
        return self.images - self.vectors


def standing(looks: deque[Counts]) -> Counts | None:
    """The counts, if their difference is no write that is under way; the last look is at the end.

    It stands if nothing changed between two looks, or if each of many looks shows one on the same side: then the
    smallest is nearest to what is left over.
    """
    if len(looks) >= 2 and looks[-1] == looks[-2]:
        return looks[-1] if looks[-1].difference else None
    sides = {(each.difference > 0) - (each.difference < 0) for each in looks}
    if len(looks) == LOOKS and len(sides) == 1 and 0 not in sides:
        return min(looks, key=lambda each: abs(each.difference))
    return None


class Counter:
    """Looks at every collection again and again, one after the other."""

    def __init__(self, clients: Clients, metrics: GatewayMetrics, every_seconds: float) -> None:
        self._clients = clients
        self._metrics = metrics
        self._every_seconds = every_seconds
        self._looks: dict[str, deque[Counts]] = {}
        self.found: dict[str, Counts] = {}
        self._task = asyncio.create_task(self._run(), name="count") if every_seconds else None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Once at every collection. Raises WentuError if the retriever does not list them."""
        there = await self._collections()
        for collection in self._looks.keys() - there.keys():
            self._forget(collection)
        for collection, creation_id in sorted(there.items()):
            try:
                # Images first: one that is written between the two counts has more vectors at most for a moment.
                images = (await self._clients.count_blobs(collection, creation_id=creation_id, images_only=True)).count
                counts = Counts(images, await self._clients.count_vectors(collection))
            except WentuError:
                continue  # the services' health says it, and what was known of the collection stays
            looks = self._looks.setdefault(collection, deque(maxlen=LOOKS))
            looks.append(counts)
            self._tell(collection, standing(looks))

    def _tell(self, collection: str, counts: Counts | None) -> None:
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
            page = await self._clients.list_collections(MAX_PAGE_SIZE, token)
            found |= {each.collection: each.creation_id for each in page.collections}
            if not (token := page.next_page_token):
                return found

    async def _run(self) -> None:
        await repeat(self.look, self._every_seconds)


async def repeat(work: Callable[[], Awaitable[None]], every_seconds: float) -> None:
    """`work` every so many seconds, and less often if it takes long. What it raises is logged."""
    while True:
        started = time.monotonic()
        try:
            await work()
        except WentuError:
            pass  # a service is away: its health says so
        except Exception:
            log.exception("counting the stores failed")
        took = time.monotonic() - started
        await asyncio.sleep(max(every_seconds - took, REST * took))
