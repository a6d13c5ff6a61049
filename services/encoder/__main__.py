"""python -m services.encoder: settings, checkpoint, engine, encoder, server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry

from services.common import server
from services.common.logs import configure_logs
from services.common.settings import load_settings
from services.encoder import service
from services.encoder.checkpoints import find_checkpoint
from services.encoder.encoder import Encoder
from services.encoder.engines import make_engine
from services.encoder.errors import ModelError
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


async def main() -> None:
    settings = load_settings(EncoderSettings, "wentu-encoder")
    configure_logs("encoder", settings.log_level, settings.log_format)
    try:
        async with running(settings):
            await server.until_stopped(settings)
    except ModelError as error:
        sys.exit(f"wentu-encoder: {error}")


if __name__ == "__main__":
    asyncio.run(main())
