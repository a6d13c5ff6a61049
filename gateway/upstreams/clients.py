"""The three services that the gateway orchestrates, as one object."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from gateway.settings import GatewaySettings
from gateway.upstreams.encoders import Encoder, Encoders
from gateway.upstreams.upstream import Upstream
from protos import (
    imagestore_pb2,
    imagestore_pb2_grpc,
    retriever_pb2,
    retriever_pb2_grpc,
    types_pb2,
)
from services.common.calls import calling, outgoing
from services.common.errors import CollectionNotFound
from services.common.fingerprint import Fingerprint
from services.common.limits import MAX_IDS

# How long a collection is taken to be as it was.
COLLECTION_SECONDS = 1.0
Result = TypeVar("Result")


def nobody(collection: str, image_ids: Sequence[str]) -> None:
    """Told in vain."""


class Clients:
    """Channels and stubs; every call carries the request id and what is left of the caller's deadline."""

    # Who looks after vectors that may not agree with the image store.
    unfinished: Callable[[str, Sequence[str]], None] = staticmethod(nobody)

    def __init__(self, settings: GatewaySettings) -> None:
        self._limit_seconds = settings.timeout_seconds
        self.encoders = Encoders(settings)
        self.retriever = Upstream("retriever", settings.retriever, settings)
        self.imagestore = Upstream("imagestore", settings.imagestore, settings)
        self._retriever = retriever_pb2_grpc.RetrieverServiceStub(self.retriever.channel)
        self._imagestore = imagestore_pb2_grpc.ImageStoreServiceStub(self.imagestore.channel)
        self._collections: dict[str, tuple[float, retriever_pb2.VectorCollection]] = {}

    @contextmanager
    def told_if_unfinished(self, collection: str, image_ids: Sequence[str]) -> Iterator[None]:
        """For work on vectors after which the image store is looked at.

        If it ends before that, because the caller left or a store failed, these vectors may not agree with the image
        store: `unfinished` is told, so that they are looked after.
        """
        try:
            yield
        except BaseException:
            self.unfinished(collection, image_ids)
            raise

    @property
    def all(self) -> tuple[Upstream, ...]:
        return (*(encoder.dependency for encoder in self.encoders.all), self.retriever, self.imagestore)

    async def close(self) -> None:
        await self.encoders.close()
        await self.retriever.channel.close()
        await self.imagestore.channel.close()

    async def encoder_of(self, collection: str, fresh: bool = False) -> Encoder:
        """The encoder for a collection's model; the only one where there is one."""
        if len(self.encoders.all) == 1:
            return self.encoders.first
        found = await self.known_collection(collection, fresh)
        return await self.encoders.of(Fingerprint.from_message(found.model))

    async def create_vectors(
        self, request: retriever_pb2.CreateVectorCollectionRequest
    ) -> retriever_pb2.VectorCollection:
        async with calling("retriever"):
            answer = await self._retriever.CreateVectorCollection(request, **outgoing(self._limit_seconds))
        return answer.collection

    async def get_collection(
        self, collection: str, count: bool = False, fresh: bool = False
    ) -> retriever_pb2.VectorCollection:
        request = retriever_pb2.GetVectorCollectionRequest(collection=collection, include_count=count, fresh=fresh)
        async with calling("retriever"):
            answer = await self._retriever.GetVectorCollection(request, **outgoing(self._limit_seconds))
        return answer.collection

    async def known_collection(self, collection: str, fresh: bool = False) -> retriever_pb2.VectorCollection:
        """As `get_collection`, or what that said in the last moment."""
        known = self._collections.get(collection)
        if fresh or known is None or time.monotonic() - known[0] > COLLECTION_SECONDS:
            self._collections.pop(collection, None)
            found = await self.get_collection(collection, fresh=fresh)
            known = self._collections[collection] = (time.monotonic(), found)
        return known[1]

    async def on_creation(self, collection: str, work: Callable[[str], Awaitable[Result]]) -> Result:
        """`work` on the creation of a collection, and once more if it was created again meanwhile."""
        known = (await self.known_collection(collection)).creation_id
        try:
            return await work(known)
        except CollectionNotFound:
            current = (await self.known_collection(collection, fresh=True)).creation_id
            if current == known:
                raise
        return await work(current)

    async def list_collections(self, size: int, token: str) -> retriever_pb2.ListVectorCollectionsResponse:
        request = retriever_pb2.ListVectorCollectionsRequest(page_size=size, page_token=token)
        async with calling("retriever"):
            return await self._retriever.ListVectorCollections(request, **outgoing(self._limit_seconds))

    async def drop_vectors(self, collection: str) -> str:
        """The creation that was dropped; empty if there was none."""
        self._collections.pop(collection, None)
        request = retriever_pb2.DropVectorCollectionRequest(collection=collection)
        async with calling("retriever"):
            return (await self._retriever.DropVectorCollection(request, **outgoing(self._limit_seconds))).creation_id

    async def search_vectors(self, request: retriever_pb2.SearchVectorsRequest) -> retriever_pb2.SearchVectorsResponse:
        async with calling("retriever"):
            return await self._retriever.SearchVectors(request, **outgoing(self._limit_seconds))

    async def upsert_vectors(self, request: retriever_pb2.UpsertVectorsRequest) -> retriever_pb2.UpsertVectorsResponse:
        async with calling("retriever"):
            return await self._retriever.UpsertVectors(request, **outgoing(self._limit_seconds))

    async def delete_vectors(
        self, collection: str, image_ids: Sequence[str], *, creation_id: str, rebuild_only: bool = False
    ) -> retriever_pb2.DeleteVectorsResponse:
        request = retriever_pb2.DeleteVectorsRequest(
            collection=collection, image_ids=image_ids, rebuild_only=rebuild_only, creation_id=creation_id
        )
        async with calling("retriever"):
            return await self._retriever.DeleteVectors(request, **outgoing(self._limit_seconds))

    async def get_vectors(
        self, collection: str, image_ids: Sequence[str], *, embeddings: bool, strong: bool, rebuild: bool = False
    ) -> retriever_pb2.GetVectorsResponse:
        request = retriever_pb2.GetVectorsRequest(
            collection=collection,
            image_ids=image_ids,
            include_embeddings=embeddings,
            rebuild=rebuild,
            consistency=types_pb2.CONSISTENCY_STRONG if strong else types_pb2.CONSISTENCY_BOUNDED,
        )
        async with calling("retriever"):
            return await self._retriever.GetVectors(request, **outgoing(self._limit_seconds))

    async def list_vectors(self, request: retriever_pb2.ListVectorsRequest) -> retriever_pb2.ListVectorsResponse:
        async with calling("retriever"):
            return await self._retriever.ListVectors(request, **outgoing(self._limit_seconds))

    async def begin_rebuild(self, request: retriever_pb2.BeginRebuildRequest) -> retriever_pb2.VectorCollection:
        async with calling("retriever"):
            return (await self._retriever.BeginRebuild(request, **outgoing(self._limit_seconds))).collection

    async def commit_rebuild(self, collection: str) -> retriever_pb2.VectorCollection:
        request = retriever_pb2.CommitRebuildRequest(collection=collection)
        async with calling("retriever"):
            return (await self._retriever.CommitRebuild(request, **outgoing(self._limit_seconds))).collection

    async def get_vector_store(self) -> retriever_pb2.GetVectorStoreResponse:
        request = retriever_pb2.GetVectorStoreRequest()
        async with calling("retriever"):
            return await self._retriever.GetVectorStore(request, **outgoing(self._limit_seconds))

    async def put_blobs(
        self, collection: str, blobs: Sequence[imagestore_pb2.BlobUpload], *, creation_id: str
    ) -> imagestore_pb2.PutBlobsResponse:
        request = imagestore_pb2.PutBlobsRequest(collection=collection, blobs=blobs, creation_id=creation_id)
        async with calling("imagestore"):
            return await self._imagestore.PutBlobs(request, **outgoing(self._limit_seconds))

    async def get_blobs(
        self,
        collection: str,
        image_ids: Sequence[str],
        *,
        creation_id: str,
        thumbnails: bool = False,
        data: bool = False,
        attributes: bool = False,
        limit_seconds: float = math.inf,
    ) -> Sequence[imagestore_pb2.Blob]:
        """Of any number of ids: the image store is asked as often as it takes, for MAX_IDS at a time."""
        blobs: list[imagestore_pb2.Blob] = []
        for start in range(0, len(image_ids), MAX_IDS):
            request = imagestore_pb2.GetBlobsRequest(
                collection=collection,
                image_ids=image_ids[start : start + MAX_IDS],
                include_thumbnails=thumbnails,
                include_data=data,
                include_attributes=attributes,
                creation_id=creation_id,
            )
            async with calling("imagestore"):
                answer = await self._imagestore.GetBlobs(request, **outgoing(min(limit_seconds, self._limit_seconds)))
                blobs += answer.blobs
        return blobs

    async def read_blob(
        self, collection: str, image_id: str, rendition: types_pb2.Rendition.ValueType
    ) -> AsyncIterator[imagestore_pb2.ReadBlobResponse]:
        request = imagestore_pb2.ReadBlobRequest(collection=collection, image_id=image_id, rendition=rendition)
        async with calling("imagestore"):
            async for part in self._imagestore.ReadBlob(request, **outgoing(self._limit_seconds)):
                yield part

    async def delete_blobs(
        self, collection: str, image_ids: Sequence[str], *, creation_id: str, revisions: Sequence[int] = ()
    ) -> Sequence[str]:
        """The ids of those that were there and removed. With `revisions` only images that still have them are."""
        request = imagestore_pb2.DeleteBlobsRequest(
            collection=collection, image_ids=image_ids, creation_id=creation_id, revisions=revisions
        )
        async with calling("imagestore"):
            return (await self._imagestore.DeleteBlobs(request, **outgoing(self._limit_seconds))).deleted_image_ids

    async def list_blobs(
        self, collection: str, size: int, token: str, *, creation_id: str
    ) -> imagestore_pb2.ListBlobsResponse:
        request = imagestore_pb2.ListBlobsRequest(
            collection=collection, page_size=size, page_token=token, include_attributes=True, creation_id=creation_id
        )
        async with calling("imagestore"):
            return await self._imagestore.ListBlobs(request, **outgoing(self._limit_seconds))

    async def count_vectors(self, collection: str) -> int:
        """As of a moment ago: nobody waits for the last writes."""
        request = retriever_pb2.CountVectorsRequest(collection=collection, consistency=types_pb2.CONSISTENCY_BOUNDED)
        async with calling("retriever"):
            return (await self._retriever.CountVectors(request, **outgoing(self._limit_seconds))).count

    async def count_blobs(
        self, collection: str, *, creation_id: str, images_only: bool = False
    ) -> imagestore_pb2.CountBlobsResponse:
        request = imagestore_pb2.CountBlobsRequest(
            collection=collection, creation_id=creation_id, images_only=images_only
        )
        async with calling("imagestore"):
            return await self._imagestore.CountBlobs(request, **outgoing(self._limit_seconds))

    async def list_creations(self, collection: str) -> Sequence[str]:
        """The ids of those that have, or may get, images."""
        request = imagestore_pb2.ListCreationsRequest(collection=collection)
        async with calling("imagestore"):
            return (await self._imagestore.ListCreations(request, **outgoing(self._limit_seconds))).creation_ids

    async def drop_blobs(self, collection: str, *, creation_id: str) -> int:
        request = imagestore_pb2.DropBlobsRequest(collection=collection, creation_id=creation_id)
        async with calling("imagestore"):
            return (await self._imagestore.DropBlobs(request, **outgoing(self._limit_seconds))).deleted_count

    async def get_blob_store(self) -> imagestore_pb2.GetBlobStoreResponse:
        async with calling("imagestore"):
            return await self._imagestore.GetBlobStore(
                imagestore_pb2.GetBlobStoreRequest(), **outgoing(self._limit_seconds)
            )
