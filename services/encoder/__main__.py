"""python -m services.encoder: settings, checkpoint, engine, encoder, server."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
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
from services.encoder.checkpoints import Checkpoint, find_checkpoint
from services.encoder.encoder import Encoder
from services.encoder.engine import Engine
from services.encoder.errors import ModelError
from services.encoder.metrics import EncoderMetrics
from services.encoder.priority import give_way
from services.encoder.settings import EncoderSettings

log = structlog.get_logger()


def make_engine(checkpoint: Checkpoint, settings: EncoderSettings) -> Engine:
    """The engine that the settings name, or the best one for this machine. torch is imported only where it computes."""
    if settings.engine == "openvino" or (settings.engine == "auto" and not _has_cuda(settings.device)):
        if importlib.util.find_spec("openvino") is not None:
            from services.encoder.engine_openvino import OpenVinoEngine

            cache = settings.compiled_cache.expanduser()
            return OpenVinoEngine(checkpoint, settings.precision, settings.threads, cache)
        if settings.engine == "openvino":
            raise ModelError("openvino is not installed: pip install 'wentu[encoder]'")
    from services.encoder.engine_torch import TorchEngine

    device = settings.device
    if device == "auto":
        device = "cuda" if _has_cuda(device) else "cpu"
    on_cuda, precision = device.startswith("cuda"), settings.precision
    if precision == "auto":
        precision = "f16" if on_cuda else "f32"
    elif not on_cuda and precision != "f32":
        raise ModelError(f"precision {precision}: torch computes in it on CUDA alone; on a CPU take f32, or openvino")
    return TorchEngine(checkpoint, device, precision, settings.threads)


def _has_cuda(device: str) -> bool:
    """Whether `device` is CUDA, or may become so: then torch says whether there is one."""
    if device != "auto" or importlib.metadata.version("torch").endswith("+cpu"):
        return device.startswith("cuda")
    import torch

    return torch.cuda.is_available()


@asynccontextmanager
async def running(settings: EncoderSettings) -> AsyncIterator[int]:
    """A started encoder; yields its port."""
    async with AsyncExitStack() as stack:
        checkpoint = find_checkpoint(
            settings.model, architecture=settings.architecture, cache=settings.model_cache, hub=settings.hub
        )
        with ThreadPoolExecutor(1, initializer=give_way) as starter:  # the engine's own threads take after it
            making = asyncio.get_running_loop().run_in_executor(starter, make_engine, checkpoint, settings)
            engine = await making
        registry = CollectorRegistry()
        encoder = Encoder(checkpoint, engine, settings, EncoderMetrics(registry))
        stack.push_async_callback(encoder.close)
        await encoder.warm_up()
        log.info("model", name=encoder.fingerprint.name, engine=engine.name, precision=engine.precision)
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
