"""python -m services.encoder: settings, checkpoint, engine, encoder, server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry

from services.common import server
from services.common.main import run_service
from services.encoder import service
from services.encoder.checkpoints import find_checkpoint
from services.encoder.encoder import Encoder
from services.encoder.engines import make_engine
from services.encoder.metrics import EncoderMetrics
from services.encoder.priority import give_way
from services.encoder.settings import EncoderSettings

log = structlog.get_logger()


@asynccontextmanager
async def running(settings: EncoderSettings) -> AsyncIterator[int]:
    """A started encoder; yields its port."""
    async with AsyncExitStack() as stack:
        checkpoint = find_checkpoint(
            settings.model, architecture=settings.architecture, cache=settings.model_cache, hub=settings.hub
        )
        with ThreadPoolExecutor(1, initializer=give_way) as starter:  # the engine's threads inherit it
            making = asyncio.get_running_loop().run_in_executor(starter, make_engine, checkpoint, settings)
            engine, fidelity = await making
        registry = CollectorRegistry()
        encoder = Encoder(checkpoint, engine, settings, EncoderMetrics(registry), fidelity)
        stack.push_async_callback(encoder.close)
        await encoder.warm_up()
        log.info(
            "model",
            name=encoder.fingerprint.name,
            engine=engine.name,
            precision=engine.precision,
            **fidelity.figures(),
        )
        checks = {"": encoder.check, service.NAME: encoder.check}
        add = service.EncoderServicer(encoder).add_to
        yield await stack.enter_async_context(server.running(settings, [service.NAME], [add], checks, registry))


if __name__ == "__main__":
    run_service("encoder", EncoderSettings, running)
