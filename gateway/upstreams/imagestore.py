"""The client of the image store."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence

from gateway.settings import GatewaySettings
from gateway.upstreams.upstream import Upstream
from protos import imagestore_pb2 as pb
from protos import imagestore_pb2_grpc, types_pb2
from services.common.limits import MAX_IDS


class ImageStoreClient:
    """The calls of the image store that the gateway makes. Each raises WentuError."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.upstream = Upstream("imagestore", settings.imagestore, settings)
        self._stub = imagestore_pb2_grpc.ImageStoreServiceStub(self.upstream.channel)

    async def put_blobs(
        self, collection: str, blobs: Sequence[pb.BlobUpload], *, creation_id: str
    ) -> pb.PutBlobsResponse:
        request = pb.PutBlobsRequest(collection=collection, blobs=blobs, creation_id=creation_id)
        return await self.upstream.call(self._stub.PutBlobs, request)

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
    ) -> Sequence[pb.Blob]:
        """Blobs of any number of ids. The image store is asked for MAX_IDS at a time."""
        blobs: list[pb.Blob] = []
        for start in range(0, len(image_ids), MAX_IDS):
            request = pb.GetBlobsRequest(
                collection=collection,
                image_ids=image_ids[start : start + MAX_IDS],
                include_thumbnails=thumbnails,
                include_data=data,
                include_attributes=attributes,
                creation_id=creation_id,
            )
            blobs += (await self.upstream.call(self._stub.GetBlobs, request, limit_seconds)).blobs
        return blobs

    def read_blob(
        self, collection: str, image_id: str, rendition: types_pb2.Rendition.ValueType
    ) -> AsyncIterator[pb.ReadBlobResponse]:
        request = pb.ReadBlobRequest(collection=collection, image_id=image_id, rendition=rendition)
        return self.upstream.stream(self._stub.ReadBlob, request)

    async def delete_blobs(
        self, collection: str, image_ids: Sequence[str], *, creation_id: str, revisions: Sequence[int] = ()
    ) -> Sequence[str]:
        """The ids of images that existed and were removed. With `revisions`, only images that still have them."""
        request = pb.DeleteBlobsRequest(
            collection=collection, image_ids=image_ids, creation_id=creation_id, revisions=revisions
        )
        return (await self.upstream.call(self._stub.DeleteBlobs, request)).deleted_image_ids

    async def list_blobs(self, collection: str, size: int, token: str, *, creation_id: str) -> pb.ListBlobsResponse:
        request = pb.ListBlobsRequest(
            collection=collection, page_size=size, page_token=token, include_attributes=True, creation_id=creation_id
        )
        return await self.upstream.call(self._stub.ListBlobs, request)

    async def count_blobs(
        self, collection: str, *, creation_id: str, images_only: bool = False
    ) -> pb.CountBlobsResponse:
        request = pb.CountBlobsRequest(collection=collection, creation_id=creation_id, images_only=images_only)
        return await self.upstream.call(self._stub.CountBlobs, request)

    async def list_creations(self, collection: str) -> Sequence[str]:
        """The ids of creations that have images or may get them."""
        request = pb.ListCreationsRequest(collection=collection)
        return (await self.upstream.call(self._stub.ListCreations, request)).creation_ids

    async def drop_blobs(self, collection: str, *, creation_id: str) -> int:
        """The number of images that were removed."""
        request = pb.DropBlobsRequest(collection=collection, creation_id=creation_id)
        return (await self.upstream.call(self._stub.DropBlobs, request)).deleted_count

    async def get_blob_store(self) -> pb.GetBlobStoreResponse:
        return await self.upstream.call(self._stub.GetBlobStore, pb.GetBlobStoreRequest())
