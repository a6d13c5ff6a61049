"""The state of the services behind the gateway."""

from __future__ import annotations

import asyncio

from gateway.maintenance.counting import Counter
from gateway.upstreams.clients import Clients
from gateway.upstreams.upstream import Upstream
from protos import admin_pb2 as pb
from protos import encoder_pb2, imagestore_pb2, retriever_pb2
from services.common import __version__
from services.common.errors import WentuError
from services.common.limits import MAX_PAGE_SIZE

SERVICES = {
    name: descriptor.services_by_name[service].full_name
    for name, descriptor, service in (
        ("encoder", encoder_pb2.DESCRIPTOR, "EncoderService"),
        ("retriever", retriever_pb2.DESCRIPTOR, "RetrieverService"),
        ("imagestore", imagestore_pb2.DESCRIPTOR, "ImageStoreService"),
    )
}


# A service that hangs must not keep the others' state from being told.
ANSWER_SECONDS = 5.0


class Status:
    """Asks each service for its health and for what it is."""

    def __init__(self, clients: Clients, counter: Counter, own_address: str) -> None:
        self._clients = clients
        self._counter = counter
        self._own_address = own_address

    async def get(self) -> pb.GetStatusResponse:
        own = pb.ServiceStatus(
            name="gateway", address=self._own_address, health=pb.SERVICE_HEALTH_SERVING, version=__version__
        )
        others = await asyncio.gather(*(self._one(dependency) for dependency in self._clients.all))
        differences = [
            pb.StoreDifference(collection=collection, image_count=counts.images, vector_count=counts.vectors)
            for collection, counts in sorted(self._counter.found.items())
        ]
        return pb.GetStatusResponse(
            services=[own, *others], collection_count=await self._collections(), differences=differences
        )

    async def _one(self, dependency: Upstream) -> pb.ServiceStatus:
        status = pb.ServiceStatus(name=dependency.name, address=dependency.address)
        try:
            serves = await dependency.serves(SERVICES[dependency.name])
            status.health = pb.SERVICE_HEALTH_SERVING if serves else pb.SERVICE_HEALTH_NOT_SERVING
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._describe(dependency, status)
        except (WentuError, TimeoutError):
            status.health = status.health or pb.SERVICE_HEALTH_UNREACHABLE
        return status

    async def _describe(self, dependency: Upstream, status: pb.ServiceStatus) -> None:
        for encoder in self._clients.encoders.all:
            if encoder.dependency is dependency:
                model = await encoder.get_model()
                status.version, status.detail = model.version, f"{model.engine} on {model.device}, {model.precision}"
                status.model.CopyFrom(model.model)
                status.precision = model.precision
                if model.HasField("fidelity"):
                    status.fidelity.CopyFrom(model.fidelity)
        if dependency is self._clients.retriever:
            vectors = await self._clients.get_vector_store()
            status.version, status.detail = vectors.version, f"{vectors.kind} {vectors.store_version}"
        elif dependency is self._clients.imagestore:
            blobs = await self._clients.get_blob_store()
            status.version, status.detail = blobs.version, f"{blobs.kind} {blobs.store_version}"

    async def _collections(self) -> int:
        count, token = 0, ""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while True:
                    page = await self._clients.list_collections(MAX_PAGE_SIZE, token)
                    count, token = count + len(page.collections), page.next_page_token
                    if not token:
                        return count
        except (WentuError, TimeoutError):
            return 0
