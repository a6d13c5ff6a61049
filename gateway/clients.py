"""The three services that the gateway orchestrates, as one object with a method for each call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from protos import (
    encoder_pb2,
    encoder_pb2_grpc,
    imagestore_pb2,
    imagestore_pb2_grpc,
    retriever_pb2,
    retriever_pb2_grpc,
    types_pb2,
)
from services.common.calls import calling, outgoing
from services.common.channels import open_channel
from services.common.errors import DependencyUnavailable

HEALTH_SECONDS = 2.0


@dataclass(frozen=True)
class Dependency:
    """A service behind the gateway."""

    name: str
    address: str
    channel: aio.Channel

    async def serves(self) -> bool:
        """What its health service says of the whole process. Raises WentuError where it does not answer."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        async with calling(self.name):
            answer = await stub.Check(health_pb2.HealthCheckRequest(), **outgoing(HEALTH_SECONDS))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def check(self) -> None:
        """Passes where it serves."""
        if not await self.serves():
            raise DependencyUnavailable(self.name, "it is not serving")


class Clients:
    """Channels and stubs; every call carries the request id and what is left of the caller's deadline."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._limit_seconds = settings.timeout_seconds
        addresses = {name: getattr(settings, name) for name in ("encoder", "retriever", "imagestore")}
        self.encoder, self.retriever, self.imagestore = (
            Dependency(name, address, open_channel(address, max_message_bytes=settings.max_message_bytes))
            for name, address in addresses.items()
        )
        self._encoder = encoder_pb2_grpc.EncoderServiceStub(self.encoder.channel)
        self._retriever = retriever_pb2_grpc.RetrieverServiceStub(self.retriever.channel)
        self._imagestore = imagestore_pb2_grpc.ImageStoreServiceStub(self.imagestore.channel)

    @property
    def all(self) -> tuple[Dependency, ...]:
        return (self.encoder, self.retriever, self.imagestore)

    async def close(self) -> None:
        for dependency in self.all:
            await dependency.channel.close()

    async def get_model(self) -> encoder_pb2.GetModelResponse:
        async with calling("encoder"):
            return await self._encoder.GetModel(encoder_pb2.GetModelRequest(), **outgoing(self._limit_seconds))

    async def encode_texts(self, texts: Sequence[str]) -> encoder_pb2.EncodeTextsResponse:
        request = encoder_pb2.EncodeTextsRequest(texts=texts)
        async with calling("encoder"):
            return await self._encoder.EncodeTexts(request, **outgoing(self._limit_seconds))

    async def encode_images(self, images: Sequence[bytes]) -> encoder_pb2.EncodeImagesResponse:
        request = encoder_pb2.EncodeImagesRequest(images=images)
        async with calling("encoder"):
            return await self._encoder.EncodeImages(request, **outgoing(self._limit_seconds))

    async def compare_texts(self, image: bytes, texts: Sequence[str]) -> encoder_pb2.CompareTextsResponse:
        request = encoder_pb2.CompareTextsRequest(image=image, texts=texts)
        async with calling("encoder"):
            return await self._encoder.CompareTexts(request, **outgoing(self._limit_seconds))

    async def create_vectors(
        self, request: retriever_pb2.CreateVectorCollectionRequest
    ) -> retriever_pb2.VectorCollection:
        async with calling("retriever"):
            answer = await self._retriever.CreateVectorCollection(request, **outgoing(self._limit_seconds))
        return answer.collection

    async def get_collection(self, collection: str, count: bool = False) -> retriever_pb2.VectorCollection:
        request = retriever_pb2.GetVectorCollectionRequest(collection=collection, include_count=count)
        async with calling("retriever"):
            answer = await self._retriever.GetVectorCollection(request, **outgoing(self._limit_seconds))
        return answer.collection

    async def list_collections(self, size: int, token: str) -> retriever_pb2.ListVectorCollectionsResponse:
        request = retriever_pb2.ListVectorCollectionsRequest(page_size=size, page_token=token)
        async with calling("retriever"):
            return await self._retriever.ListVectorCollections(request, **outgoing(self._limit_seconds))

    async def drop_vectors(self, collection: str) -> bool:
        request = retriever_pb2.DropVectorCollectionRequest(collection=collection)
        async with calling("retriever"):
            return (await self._retriever.DropVectorCollection(request, **outgoing(self._limit_seconds))).dropped

    async def search_vectors(self, request: retriever_pb2.SearchVectorsRequest) -> retriever_pb2.SearchVectorsResponse:
        async with calling("retriever"):
            return await self._retriever.SearchVectors(request, **outgoing(self._limit_seconds))

    async def upsert_vectors(self, request: retriever_pb2.UpsertVectorsRequest) -> None:
        async with calling("retriever"):
            await self._retriever.UpsertVectors(request, **outgoing(self._limit_seconds))

    async def delete_vectors(self, collection: str, image_ids: Sequence[str]) -> None:
        request = retriever_pb2.DeleteVectorsRequest(collection=collection, image_ids=image_ids)
        async with calling("retriever"):
            await self._retriever.DeleteVectors(request, **outgoing(self._limit_seconds))

    async def get_vectors(
        self, collection: str, image_ids: Sequence[str], *, embeddings: bool, strong: bool
    ) -> Sequence[retriever_pb2.VectorRecord]:
        request = retriever_pb2.GetVectorsRequest(
            collection=collection,
            image_ids=image_ids,
            include_embeddings=embeddings,
            consistency=types_pb2.CONSISTENCY_STRONG if strong else types_pb2.CONSISTENCY_BOUNDED,
        )
        async with calling("retriever"):
            return (await self._retriever.GetVectors(request, **outgoing(self._limit_seconds))).records

    async def list_vectors(self, request: retriever_pb2.ListVectorsRequest) -> retriever_pb2.ListVectorsResponse:
        async with calling("retriever"):
            return await self._retriever.ListVectors(request, **outgoing(self._limit_seconds))

    async def get_vector_store(self) -> retriever_pb2.GetVectorStoreResponse:
        request = retriever_pb2.GetVectorStoreRequest()
        async with calling("retriever"):
            return await self._retriever.GetVectorStore(request, **outgoing(self._limit_seconds))

    async def put_blobs(
        self, collection: str, blobs: Sequence[imagestore_pb2.BlobUpload]
    ) -> Sequence[types_pb2.ImageInfo]:
        request = imagestore_pb2.PutBlobsRequest(collection=collection, blobs=blobs)
        async with calling("imagestore"):
            return (await self._imagestore.PutBlobs(request, **outgoing(self._limit_seconds))).infos

    async def get_blobs(
        self, collection: str, image_ids: Sequence[str], *, thumbnails: bool = False
    ) -> Sequence[imagestore_pb2.Blob]:
        request = imagestore_pb2.GetBlobsRequest(
            collection=collection, image_ids=image_ids, include_thumbnails=thumbnails
        )
        async with calling("imagestore"):
            return (await self._imagestore.GetBlobs(request, **outgoing(self._limit_seconds))).blobs

    async def read_blob(
        self, collection: str, image_id: str, rendition: types_pb2.Rendition.ValueType
    ) -> AsyncIterator[imagestore_pb2.ReadBlobResponse]:
        request = imagestore_pb2.ReadBlobRequest(collection=collection, image_id=image_id, rendition=rendition)
        async with calling("imagestore"):
            async for part in self._imagestore.ReadBlob(request, **outgoing(self._limit_seconds)):
                yield part

    async def delete_blobs(self, collection: str, image_ids: Sequence[str]) -> Sequence[str]:
        request = imagestore_pb2.DeleteBlobsRequest(collection=collection, image_ids=image_ids)
        async with calling("imagestore"):
            return (await self._imagestore.DeleteBlobs(request, **outgoing(self._limit_seconds))).deleted_image_ids

    async def count_blobs(self, collection: str) -> imagestore_pb2.CountBlobsResponse:
        request = imagestore_pb2.CountBlobsRequest(collection=collection)
        async with calling("imagestore"):
            return await self._imagestore.CountBlobs(request, **outgoing(self._limit_seconds))

    async def drop_blobs(self, collection: str) -> int:
        request = imagestore_pb2.DropBlobsRequest(collection=collection)
        async with calling("imagestore"):
            return (await self._imagestore.DropBlobs(request, **outgoing(self._limit_seconds))).deleted_count

    async def get_blob_store(self) -> imagestore_pb2.GetBlobStoreResponse:
        async with calling("imagestore"):
            return await self._imagestore.GetBlobStore(
                imagestore_pb2.GetBlobStoreRequest(), **outgoing(self._limit_seconds)
            )
