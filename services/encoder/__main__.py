"""python -m services.encoder: settings, model, engine, encoder, server."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
import torch

from services.common import server
from services.common.logs import configure_logs
from services.common.settings import load_settings
from services.encoder import service
from services.encoder.checkpoints import LoadedModel, ModelError, load_model
from services.encoder.encoder import Encoder
from services.encoder.engine import Engine
from services.encoder.engine_torch import TorchEngine
from services.encoder.settings import EncoderSettings

log = structlog.get_logger()


def make_engine(model: LoadedModel, settings: EncoderSettings) -> Engine:
    """The engine that the settings name, or the best one for this machine."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and settings.engine != "openvino" else "cpu"
    has_openvino = importlib.util.find_spec("openvino") is not None
    if settings.engine == "openvino" or (settings.engine == "auto" and device == "cpu" and has_openvino):
        from services.encoder.engine_openvino import OpenVinoEngine, best_precision, cache_name

        precision = best_precision() if settings.precision == "auto" else settings.precision
        known = cache_name(model.fingerprint.checkpoint_sha256, model.fingerprint.preprocessing_version)
        cache = settings.compiled_cache.expanduser() / known
        return OpenVinoEngine(model.module, model.image_resolution, precision, settings.threads, cache)
    if settings.precision == "auto":
        return TorchEngine(model.module, device, "f32" if device == "cpu" else "f16", settings.threads)
    return TorchEngine(model.module, device, settings.precision, settings.threads)


@asynccontextmanager
async def running(settings: EncoderSettings) -> AsyncIterator[int]:
    """A started encoder; yields its port."""
    async with AsyncExitStack() as stack:
        model = load_model(
            settings.model, architecture=settings.architecture, cache=settings.model_cache, hub=settings.hub
        )
        encoder = Encoder(model, make_engine(model, settings), settings)
        stack.push_async_callback(encoder.close)
        await encoder.warm_up()
        engine = encoder.engine
        log.info("model", name=encoder.fingerprint.name, engine=engine.name, precision=engine.precision)
        checks = {"": encoder.check, service.NAME: encoder.check}
        add = service.EncoderServicer(encoder).add_to
        yield await stack.enter_async_context(server.running(settings, [service.NAME], [add], checks))


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
