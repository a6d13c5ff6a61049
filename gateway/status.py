"""The state of the services behind the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from gateway.maintenance.counting import Counter
from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.encoder import EncoderClient
from gateway.upstreams.limits import limit_warnings
from gateway.upstreams.upstream import Upstream
from protos import admin_pb2 as pb
from protos import encoder_pb2, imagestore_pb2, retriever_pb2
from services.common import __version__
from services.common.addresses import host_port
from services.common.errors import WentuError
from services.common.limits import MAX_PAGE_SIZE

StoreDescription: TypeAlias = retriever_pb2.GetVectorStoreResponse | imagestore_pb2.GetBlobStoreResponse
# A service that hangs must not delay the state of the others for longer.
ANSWER_SECONDS = 5.0
SERVICES = {
    name: descriptor.services_by_name[service].full_name
    for name, descriptor, service in (
        ("encoder", encoder_pb2.DESCRIPTOR, "EncoderService"),
        ("retriever", retriever_pb2.DESCRIPTOR, "RetrieverService"),
        ("imagestore", imagestore_pb2.DESCRIPTOR, "ImageStoreService"),
    )
}


class Status:
    """Asks each service for its health and its description."""

    def __init__(self, clients: Clients, counter: Counter, settings: GatewaySettings) -> None:
        self._clients = clients
        self._counter = counter
        self._settings = settings

    async def get(self) -> pb.GetStatusResponse:
        own = pb.ServiceStatus(
            name="gateway",
            address=host_port(self._settings.host, self._settings.port),
            health=pb.SERVICE_HEALTH_SERVING,
            version=__version__,
        )
        clients, settings = self._clients, self._settings
        others = await asyncio.gather(
            *(
                _status(encoder.upstream, partial(_describe_encoder, settings, encoder))
                for encoder in clients.encoders.all
            ),
            _status(clients.retriever.upstream, partial(_describe_store, settings, clients.retriever.get_vector_store)),
            _status(clients.imagestore.upstream, partial(_describe_store, settings, clients.imagestore.get_blob_store)),
        )
        differences = [
            pb.StoreDifference(collection=collection, image_count=counts.images, vector_count=counts.vectors)
            for collection, counts in sorted(self._counter.found.items())
        ]
        return pb.GetStatusResponse(
            services=[own, *others], collection_count=await self._collections(), differences=differences
        )

    async def _collections(self) -> int:
        count, token = 0, ""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while True:
                    page = await self._clients.retriever.list_collections(MAX_PAGE_SIZE, token)
                    count, token = count + len(page.collections), page.next_page_token
                    if not token:
                        return count
        except (WentuError, TimeoutError):
            return 0


async def _status(upstream: Upstream, describe: Callable[[pb.ServiceStatus], Awaitable[None]]) -> pb.ServiceStatus:
    """The health of one service, with the description that `describe` adds."""
    status = pb.ServiceStatus(name=upstream.name, address=upstream.address)
    try:
        serves = await upstream.serves(SERVICES[upstream.name])
        status.health = pb.SERVICE_HEALTH_SERVING if serves else pb.SERVICE_HEALTH_NOT_SERVING
        async with asyncio.timeout(ANSWER_SECONDS):
            await describe(status)
    except (WentuError, TimeoutError):
        status.health = status.health or pb.SERVICE_HEALTH_UNREACHABLE
    return status


async def _describe_encoder(settings: GatewaySettings, encoder: EncoderClient, status: pb.ServiceStatus) -> None:
    model = await encoder.get_model()
    status.version, status.detail = model.version, f"{model.engine} on {model.device}, {model.precision}"
    status.model.CopyFrom(model.model)
    status.precision = model.precision
    status.limit_warnings.extend(limit_warnings(settings, model))
    if model.HasField("fidelity"):
        status.fidelity.CopyFrom(model.fidelity)


async def _describe_store(
    settings: GatewaySettings, ask: Callable[[], Awaitable[StoreDescription]], status: pb.ServiceStatus
) -> None:
    store = await ask()
    status.version, status.detail = store.version, f"{store.kind} {store.store_version}"
    status.limit_warnings.extend(limit_warnings(settings, store))
