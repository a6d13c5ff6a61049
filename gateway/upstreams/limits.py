"""Compares the limits of the upstreams with the gateway's own, since they must agree.

Each service starts alone, so it cannot refuse to start because of another one. The gateway asks its upstreams as soon
as they can be reached, and from time to time, and logs warnings. GetStatus shows the warnings too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from protos import encoder_pb2, imagestore_pb2, retriever_pb2, types_pb2
from services.common.errors import WentuError
from services.common.limits import MAX_ATTRIBUTES_BYTES, MESSAGE_MARGIN_BYTES

log = structlog.get_logger()

Description: TypeAlias = (
    encoder_pb2.GetModelResponse | retriever_pb2.GetVectorStoreResponse | imagestore_pb2.GetBlobStoreResponse
)
# Seconds between questions: until all upstreams answer, and afterwards, since one may restart with other settings.
ABSENT_SECONDS = 5.0
PRESENT_SECONDS = 300.0


@dataclass(frozen=True)
class _Need:
    """A setting, its value (0 if an older service does not state it), the least sufficient value, and the reason."""

    setting: str
    actual: int
    least: int
    reason: str


def limit_warnings(settings: GatewaySettings, upstream: Description) -> list[str]:
    """One sentence per limit of an upstream that does not agree with the gateway's settings."""
    match upstream:
        case encoder_pb2.GetModelResponse():
            needs = _of_encoder(settings, upstream)
        case imagestore_pb2.GetBlobStoreResponse():
            needs = _of_image_store(settings, upstream)
        case _:
            needs = _of_retriever(settings, upstream)
    return [
        f"{need.setting} is {need.actual:,} and must be at least {need.least:,}: {need.reason}"
        for need in needs
        if need.actual and need.actual < need.least
    ]


def _of_encoder(settings: GatewaySettings, model: encoder_pb2.GetModelResponse) -> list[_Need]:
    name, limits = "encoder", model.limits
    return [
        _images(settings, name, limits.max_image_bytes),
        _Need(f"max_images of the {name}", limits.max_images, settings.import_batch, "so many are imported together"),
        _requests(name, model.messages, _batch_bytes(settings)),
        _answers(settings, name, model.messages),
    ]


def _of_image_store(settings: GatewaySettings, store: imagestore_pb2.GetBlobStoreResponse) -> list[_Need]:
    name, least = "imagestore", _batch_bytes(settings)
    return [
        _images(settings, name, store.max_image_bytes),
        _requests(name, store.messages, least + _attributes_bytes(settings)),
        _attributes(settings, name, store.messages),
        # It reserves a part of each answer for other data than image bytes, as the gateway does in each request.
        _Need(
            f"max_message_bytes of the {name}",
            store.messages.max_answer_bytes,
            least,
            "the images of a batch are read together",
        ),
        _answers(settings, name, store.messages),
    ]


def _of_retriever(settings: GatewaySettings, store: retriever_pb2.GetVectorStoreResponse) -> list[_Need]:
    name = "retriever"
    return [
        _requests(name, store.messages, MESSAGE_MARGIN_BYTES + _attributes_bytes(settings)),
        _attributes(settings, name, store.messages),
        _answers(settings, name, store.messages),
    ]


def _images(settings: GatewaySettings, name: str, max_image_bytes: int) -> _Need:
    return _Need(f"max_image_bytes of the {name}", max_image_bytes, settings.max_image_bytes, "the gateway takes them")


def _requests(name: str, messages: types_pb2.MessageLimits, least: int) -> _Need:
    reason = "a batch of an import may have so much"
    return _Need(f"max_request_bytes of the {name}", messages.max_request_bytes, least, reason)


def _attributes(settings: GatewaySettings, name: str, messages: types_pb2.MessageLimits) -> _Need:
    reason = f"{settings.import_batch} images may have {MAX_ATTRIBUTES_BYTES:,} bytes of attributes each"
    return _Need(f"max_fields_bytes of the {name}", messages.max_fields_bytes, _attributes_bytes(settings), reason)


def _answers(settings: GatewaySettings, name: str, messages: types_pb2.MessageLimits) -> _Need:
    reason = f"answers of the {name} may have so much"
    return _Need("max_message_bytes of the gateway", settings.max_message_bytes, messages.max_answer_bytes, reason)


def _batch_bytes(settings: GatewaySettings) -> int:
    """The bytes of a batch of images. An image that is larger than a batch is sent alone."""
    return max(settings.import_batch_bytes, settings.max_image_bytes) + MESSAGE_MARGIN_BYTES


def _attributes_bytes(settings: GatewaySettings) -> int:
    return settings.import_batch * MAX_ATTRIBUTES_BYTES


class LimitsWatch:
    """Asks the upstreams in the background, and logs each disagreement when it is new."""

    def __init__(self, clients: Clients, settings: GatewaySettings) -> None:
        self._clients = clients
        self._settings = settings
        self._said: set[tuple[str, str]] = set()
        self._task = asyncio.create_task(self._run(), name="limits")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> bool:
        """Ask each upstream once. Returns whether all answered."""
        asking: dict[str, Callable[[], Awaitable[Description]]] = {
            self._clients.retriever.upstream.address: self._clients.retriever.get_vector_store,
            self._clients.imagestore.upstream.address: self._clients.imagestore.get_blob_store,
            **{encoder.upstream.address: encoder.get_model for encoder in self._clients.encoders.all},
        }
        answers = await asyncio.gather(*(ask() for ask in asking.values()), return_exceptions=True)
        said: set[tuple[str, str]] = set()
        for address, answer in zip(asking, answers, strict=True):
            if isinstance(answer, WentuError):
                said |= {(known, warning) for known, warning in self._said if known == address}
            elif isinstance(answer, BaseException):
                raise answer
            else:
                said |= {(address, warning) for warning in limit_warnings(self._settings, answer)}
        for address, warning in sorted(said - self._said):
            log.warning("limits do not agree", address=address, problem=warning)
        self._said = said
        return not any(isinstance(answer, WentuError) for answer in answers)

    async def _run(self) -> None:
        while True:
            try:
                answered = await self.look()
            except Exception:
                log.exception("asking for limits failed")
                answered = True
            await asyncio.sleep(PRESENT_SECONDS if answered else ABSENT_SECONDS)
