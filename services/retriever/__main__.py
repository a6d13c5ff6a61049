"""python -m services.retriever: settings, Milvus, store, server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.common import server
from services.common.main import run_service
from services.retriever import service
from services.retriever.backend import VectorBackend
from services.retriever.milvus.client import Milvus
from services.retriever.milvus.lite import Lite
from services.retriever.milvus.startup_check import startup_check
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


if __name__ == "__main__":
    run_service("retriever", RetrieverSettings, running)
