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
from gateway.maintenance.snapshots import snapshot_exporter as exporting
from gateway.maintenance.snapshots import snapshot_importer as importing
from gateway.metrics import GatewayMetrics
from gateway.precision import PrecisionNotes
from gateway.search.scorer import Scorer
from gateway.search.searcher import Searcher
from gateway.settings import GatewaySettings
from gateway.status import Status
from gateway.upstreams.clients import Clients
from gateway.upstreams.upstream import Upstream
from services.common import server
from services.common.addresses import host_port
from services.common.health import Check
from services.common.logs import configure_logs
from services.common.settings import load_settings


def needs(*dependencies: Upstream) -> Check:
    """Passes where all of these serve."""

    async def check() -> None:
        await asyncio.gather(*(dependency.check() for dependency in dependencies))

    return check


@asynccontextmanager
async def running(settings: GatewaySettings) -> AsyncIterator[int]:
    """A started gateway; yields its port."""
    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        metrics = GatewayMetrics(registry)
        notes = PrecisionNotes(metrics)
        clients = Clients(settings)
        stack.push_async_callback(clients.close)
        reconciler = Reconciler(clients, settings)
        repairs = Repairs(reconciler)
        stack.push_async_callback(repairs.close)
        clients.unfinished = repairs.ask
        counter = Counter(clients, metrics, settings.count_seconds)
        stack.push_async_callback(counter.close)
        searcher = Searcher(clients, settings.fetch_seconds, repairs.ask, notes)
        # Methods that the contract has and this version has not answer UNIMPLEMENTED, by their base classes.
        register = [
            service.SearchServicer(searcher, Scorer(clients)).add_to,  # type: ignore[abstract]
            service.ImageServicer(clients, Images(clients, settings), settings, notes).add_to,
            service.CollectionServicer(Collections(clients)).add_to,
            service.AdminServicer(  # type: ignore[abstract]
                Status(clients, counter, host_port(settings.host, settings.port)),
                reconciler,
                Reembedder(clients, settings),
                exporting.Exporter(clients, settings),
                importing.Importer(clients, settings),
            ).add_to,
        ]
        checks = {
            "": needs(),  # the gateway itself: with a dependency down it still answers what it can
            service.SEARCH: needs(clients.encoders.first.dependency, clients.retriever),
            service.IMAGES: needs(clients.imagestore),
            service.COLLECTIONS: needs(clients.retriever),
            service.ADMIN: needs(),
        }
        names = [name for name in checks if name]
        yield await stack.enter_async_context(server.running(settings, names, register, checks, registry))


async def main() -> None:
    settings = load_settings(GatewaySettings, "wentu-gateway")
    configure_logs("gateway", settings.log_level, settings.log_format)
    async with running(settings):
        await server.until_stopped(settings)


if __name__ == "__main__":
    asyncio.run(main())
