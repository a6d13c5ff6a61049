"""The client of the retriever."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.settings import GatewaySettings
from gateway.upstreams.upstream import Upstream
from protos import retriever_pb2 as pb
from protos import retriever_pb2_grpc, types_pb2


class RetrieverClient:
    """The calls of the retriever that the gateway makes. Each raises WentuError."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.upstream = Upstream("retriever", settings.retriever, settings)
        self._stub = retriever_pb2_grpc.RetrieverServiceStub(self.upstream.channel)

    async def create_vectors(self, request: pb.CreateVectorCollectionRequest) -> pb.VectorCollection:
        return (await self.upstream.call(self._stub.CreateVectorCollection, request)).collection

    async def get_collection(self, collection: str, count: bool = False, fresh: bool = False) -> pb.VectorCollection:
        request = pb.GetVectorCollectionRequest(collection=collection, include_count=count, fresh=fresh)
        return (await self.upstream.call(self._stub.GetVectorCollection, request)).collection

    async def list_collections(self, size: int, token: str) -> pb.ListVectorCollectionsResponse:
        request = pb.ListVectorCollectionsRequest(page_size=size, page_token=token)
        return await self.upstream.call(self._stub.ListVectorCollections, request)

    async def drop_vectors(self, collection: str) -> str:
        """The id of the dropped creation. Empty if there was none."""
        request = pb.DropVectorCollectionRequest(collection=collection)
        return (await self.upstream.call(self._stub.DropVectorCollection, request)).creation_id

    async def search_vectors(self, request: pb.SearchVectorsRequest) -> pb.SearchVectorsResponse:
        return await self.upstream.call(self._stub.SearchVectors, request)

    async def upsert_vectors(self, request: pb.UpsertVectorsRequest) -> pb.UpsertVectorsResponse:
        return await self.upstream.call(self._stub.UpsertVectors, request)

    async def delete_vectors(
        self, collection: str, image_ids: Sequence[str], *, creation_id: str, rebuild_only: bool = False
    ) -> pb.DeleteVectorsResponse:
        request = pb.DeleteVectorsRequest(
            collection=collection, image_ids=image_ids, rebuild_only=rebuild_only, creation_id=creation_id
        )
        return await self.upstream.call(self._stub.DeleteVectors, request)

    async def get_vectors(
        self, collection: str, image_ids: Sequence[str], *, embeddings: bool, strong: bool, rebuild: bool = False
    ) -> pb.GetVectorsResponse:
        request = pb.GetVectorsRequest(
            collection=collection,
            image_ids=image_ids,
            include_embeddings=embeddings,
            rebuild=rebuild,
            consistency=types_pb2.CONSISTENCY_STRONG if strong else types_pb2.CONSISTENCY_BOUNDED,
        )
        return await self.upstream.call(self._stub.GetVectors, request)

    async def list_vectors(self, request: pb.ListVectorsRequest) -> pb.ListVectorsResponse:
        return await self.upstream.call(self._stub.ListVectors, request)

    async def count_vectors(self, collection: str) -> int:
        """The number of vectors, without waiting for the latest writes."""
        request = pb.CountVectorsRequest(collection=collection, consistency=types_pb2.CONSISTENCY_BOUNDED)
        return (await self.upstream.call(self._stub.CountVectors, request)).count

    async def begin_rebuild(self, request: pb.BeginRebuildRequest) -> pb.VectorCollection:
        return (await self.upstream.call(self._stub.BeginRebuild, request)).collection

    async def commit_rebuild(self, collection: str) -> pb.VectorCollection:
        request = pb.CommitRebuildRequest(collection=collection)
        return (await self.upstream.call(self._stub.CommitRebuild, request)).collection

    async def get_vector_store(self) -> pb.GetVectorStoreResponse:
        return await self.upstream.call(self._stub.GetVectorStore, pb.GetVectorStoreRequest())
