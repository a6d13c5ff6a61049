"""Encoding images for those who have time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from protos import encoder_pb2
from services.common.calls import seconds_left
from services.common.errors import Overloaded
from services.common.fingerprint import Fingerprint

# How long an image waits for an encoder that is full.
BUSY_SECONDS = 600.0
Item = TypeVar("Item")


async def encode_patiently(
    clients: Clients, model: Fingerprint, images: Sequence[bytes]
) -> encoder_pb2.EncodeImagesResponse:
    """Comes again as long as the encoder for `model` is full and says when."""
    give_up = time.monotonic() + min(BUSY_SECONDS, seconds_left() or BUSY_SECONDS)
    while True:
        try:
            encoder = await clients.encoders.of(model)
            return await encoder.encode_images(images)
        except Overloaded as error:
            pause = error.retry_after_seconds
            if pause is None or time.monotonic() + pause > give_up:
                raise
        await asyncio.sleep(pause)


def batches(
    items: Iterable[Item], size_bytes: Callable[[Item], int], settings: GatewaySettings
) -> Iterator[list[Item]]:
    """Images to be encoded together, as many and as large as in an import."""
    batch: list[Item] = []
    size = 0
    for item in items:
        size += size_bytes(item)
        if batch and (len(batch) == settings.import_batch or size > settings.import_batch_bytes):
            yield batch
            batch, size = [], size_bytes(item)
        batch.append(item)
    if batch:
        yield batch
