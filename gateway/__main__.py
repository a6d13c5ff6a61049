"""python -m gateway: settings, clients, orchestration, server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from gateway import service
from gateway.collections import Collections
from gateway.images import Images
from gateway.maintenance.counting import Counter
from gateway.maintenance.reconciler import Reconciler
from gateway.maintenance.reembedder import Reembedder
from gateway.maintenance.repairs import Repairs
from gateway.maintenance.snapshots.snapshot_exporter import SnapshotExporter
from gateway.maintenance.snapshots.snapshot_importer import SnapshotImporter
from gateway.metrics import GatewayMetrics
from gateway.precision import PrecisionNotes
from gateway.search.scorer import Scorer
from gateway.search.searcher import Searcher
from gateway.settings import GatewaySettings
from gateway.status import Status
from gateway.upstreams.clients import Clients
from gateway.upstreams.limits import LimitsWatch
from gateway.upstreams.upstream import Upstream
from services.common import server
from services.common.health import Check
from services.common.main import run_service


def needs(*upstreams: Upstream) -> Check:
    """A check that passes if all of these services serve."""

    async def check() -> None:
        await asyncio.gather(*(upstream.check() for upstream in upstreams))

    return check


@asynccontextmanager
async def running(settings: GatewaySettings) -> AsyncIterator[int]:
    """A started gateway; yields its port."""
    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        metrics = GatewayMetrics(registry)
        notes = PrecisionNotes(metrics)
        clients = Clients.open(settings)
        stack.push_async_callback(clients.close)
        reconciler = Reconciler(clients, settings)
        repairs = Repairs(reconciler)
        stack.push_async_callback(repairs.close)
        stack.push_async_callback(LimitsWatch(clients, settings).close)
        counter = Counter(clients, metrics, settings.count_seconds)
        stack.push_async_callback(counter.close)
        searcher = Searcher(clients, settings.fetch_seconds, repairs.ask, notes)
        # The base classes answer UNIMPLEMENTED to methods that this version does not have yet.
        register = [
            service.SearchServicer(searcher, Scorer(clients), metrics).add_to,  # type: ignore[abstract]
            service.ImageServicer(clients, Images(clients, settings, repairs.ask), settings, notes, repairs.ask).add_to,
            service.CollectionServicer(Collections(clients)).add_to,
            service.AdminServicer(  # type: ignore[abstract]
                Status(clients, counter, settings),
                reconciler,
                Reembedder(clients, settings),
                SnapshotExporter(clients, settings),
                SnapshotImporter(clients, settings),
            ).add_to,
        ]
        encoder, retriever, imagestore = (
            client.upstream for client in (clients.encoders.first, clients.retriever, clients.imagestore)
        )
        checks = {
            "": needs(),  # the gateway itself: it still answers some calls if an upstream is down
            service.SEARCH: needs(encoder, retriever),
            service.IMAGES: needs(imagestore),
            service.COLLECTIONS: needs(retriever),
            service.ADMIN: needs(),
        }
        names = [name for name in checks if name]
        yield await stack.enter_async_context(server.running(settings, names, register, checks, registry))


if __name__ == "__main__":
    run_service("gateway", GatewaySettings, running)
