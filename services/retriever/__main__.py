"""python -m services.retriever: settings, Milvus, store, server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.common import server
from services.common.errors import UpstreamUnavailable
from services.common.logs import configure_logs
from services.common.settings import load_settings
from services.retriever import service
from services.retriever.backend import VectorBackend
from services.retriever.milvus.client import Milvus
from services.retriever.milvus.lite import Lite
from services.retriever.milvus.startup_check import StoreDisagrees, startup_check
from services.retriever.settings import RetrieverSettings
from services.retriever.store import VectorStore


@asynccontextmanager
async def running(settings: RetrieverSettings) -> AsyncIterator[int]:
    """A started retriever; yields its port."""
    async with AsyncExitStack() as stack:
        backend: VectorBackend = Milvus(settings) if "://" in settings.milvus else Lite(settings)
        stack.push_async_callback(backend.close)
        await startup_check(backend)
        store = VectorStore(backend)
        stack.push_async_callback(store.close)
        await store.catalog.remove_abandoned()
        # On the first, callers choose whom to ask: searches go on while a full disk refuses writes.
        checks = {"": store.answers, service.NAME: store.check}
        # Methods that the contract has and this version has not answer UNIMPLEMENTED, by their base class.
        servicer = service.RetrieverServicer(store, settings.message_limits())
        yield await stack.enter_async_context(server.running(settings, [service.NAME], [servicer.add_to], checks))


async def main() -> None:
    settings = load_settings(RetrieverSettings, "wentu-retriever")
    configure_logs("retriever", settings.log_level, settings.log_format)
    try:
        async with running(settings):
            await server.until_stopped(settings)
    except (UpstreamUnavailable, StoreDisagrees) as error:
        sys.exit(f"wentu-retriever: {error}")


if __name__ == "__main__":
    asyncio.run(main())
