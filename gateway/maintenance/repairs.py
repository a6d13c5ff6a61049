"""Repairs in the background what a search found to be inconsistent."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextvars import Context

import structlog

from gateway.maintenance.reconciler import LOOK_AT_ONCE, Reconciler
from protos import admin_pb2 as pb
from services.common.errors import WentuError

log = structlog.get_logger()


class Repairs:
    """Reconciles hits without bytes, one collection at a time. Ids beyond the limit are dropped."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._waiting: defaultdict[str, set[str]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    def ask(self, collection: str, image_ids: Sequence[str]) -> None:
        waiting = self._waiting[collection]
        waiting.update(list(image_ids)[: LOOK_AT_ONCE - len(waiting)])
        if self._task is None or self._task.done():
            # In its own context, since the search's deadline does not apply to the repair.
            self._task = asyncio.create_task(self._work(), name="repairs", context=Context())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            collection, image_ids = self._waiting.popitem()
            request = pb.ReconcileRequest(collection=collection)
            try:
                async for answer in self._reconciler.settle(collection, sorted(image_ids), request):
                    log.info("repaired", collection=collection, image_id=answer.image_id, repaired=answer.repaired)
            except WentuError as error:
                log.warning("repairs", collection=collection, problem=error.message)
