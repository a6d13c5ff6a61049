"""Encodes images for callers that can wait, such as imports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from protos import encoder_pb2, types_pb2
from services.common.calls import seconds_left
from services.common.errors import ModelMismatch, Overloaded
from services.common.fingerprint import Fingerprint

# How long images wait for an encoder that is full.
BUSY_SECONDS = 600.0
Item = TypeVar("Item")


async def encode_patiently(
    clients: Clients, model: Fingerprint, images: Sequence[bytes]
) -> encoder_pb2.EncodeImagesResponse:
    """Encode images. As long as the encoder for `model` is full, the call is repeated after the advised delay."""
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


@dataclass
class EncodedImages:
    """Results and errors of encoded images, by image id. `precision` is that of the vectors, or empty."""

    results: dict[str, encoder_pb2.ImageEmbedding] = field(default_factory=dict)
    failed: dict[str, types_pb2.ItemError] = field(default_factory=dict)
    precision: str = ""


async def encode_for(
    clients: Clients, settings: GatewaySettings, collection: str, model: Fingerprint, images: Mapping[str, bytes]
) -> EncodedImages:
    """Images, by id, encoded for a collection of `model`. Raises ModelMismatch, UpstreamUnavailable, Overloaded."""
    encoded = EncodedImages()
    for batch in batches(images.items(), lambda item: len(item[1]), settings):
        answer = await encode_patiently(clients, model, [data for _, data in batch])
        if not (made_by := Fingerprint.from_message(answer.model)).fits(model):
            raise ModelMismatch(collection, str(model), str(made_by))
        encoded.precision = answer.precision
        for (image_id, _), result in zip(batch, answer.results, strict=True):
            if result.WhichOneof("outcome") == "error":
                encoded.failed[image_id] = result.error
            else:
                encoded.results[image_id] = result
    return encoded


def batches(
    items: Iterable[Item], size_bytes: Callable[[Item], int], settings: GatewaySettings
) -> Iterator[list[Item]]:
    """Batches of images to encode together. Count and size are those of an import."""
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
