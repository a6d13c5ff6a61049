"""Creates, reads and deletes collections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from gateway.upstreams.clients import Clients
from protos import encoder_pb2, retriever_pb2
from protos import search_pb2 as pb
from services.common.errors import CollectionNotFound, InvalidField, WentuError
from services.common.ids import check_collection, page_size


class Collections:
    """The operations on collections."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def create(self, request: pb.CreateCollectionRequest) -> pb.Collection:
        """Create a collection with the encoder's model. Raises CollectionExists, InvalidField."""
        check_collection(request.collection)
        own = await self._own_model(request)
        if request.strict_precision and not own.precision:
            raise InvalidField("strict_precision", "needs an encoder that has the model, and says its precision")
        made = await self._clients.retriever.create_vectors(
            retriever_pb2.CreateVectorCollectionRequest(
                collection=request.collection,
                model=own.model,
                metric=request.metric,
                index=request.index,
                description=request.description,
                precision=own.precision,
                strict_precision=request.strict_precision,
                fidelity=own.fidelity if own.HasField("fidelity") else None,
            )
        )
        return _collection(made)

    async def _own_model(self, request: pb.CreateCollectionRequest) -> encoder_pb2.GetModelResponse:
        """The encoder's description of its model. If the request names another model, only that name."""
        if not request.HasField("model"):
            return await self._clients.encoders.first.get_model()
        with contextlib.suppress(WentuError):  # a collection can be created while the encoder is down
            found = await self._clients.encoders.first.get_model()
            if found.model == request.model:
                return found
        return encoder_pb2.GetModelResponse(model=request.model)

    async def get(self, collection: str) -> pb.Collection:
        """A collection with its number of images. Raises CollectionNotFound."""
        found = await self._clients.retriever.get_collection(check_collection(collection), count=True)
        counts = await self._clients.imagestore.count_blobs(collection, creation_id=found.creation_id)
        return _collection(found, counts.content_bytes)

    async def page(self, request: pb.ListCollectionsRequest) -> pb.ListCollectionsResponse:
        found = await self._clients.retriever.list_collections(page_size(request.page_size), request.page_token)
        return pb.ListCollectionsResponse(
            collections=[_collection(each) for each in found.collections], next_page_token=found.next_page_token
        )

    async def delete(self, collection: str) -> int:
        """Delete a collection. Returns the number of removed images. Repeat an interrupted deletion to finish it."""
        # Listed before the vectors are dropped, so that a collection created later under this id is not touched.
        creation_ids = set(await self._clients.imagestore.list_creations(check_collection(collection)))
        if dropped := await self._clients.collections.drop(collection):
            creation_ids.add(dropped)
        if not creation_ids:
            raise CollectionNotFound(collection)
        return await drop_creations(self._clients, collection, creation_ids)


async def drop_creations(clients: Clients, collection: str, creation_ids: Iterable[str]) -> int:
    """Drop these creations of a collection. They accept no images afterwards. Returns the number of removed images."""
    return sum([await clients.imagestore.drop_blobs(collection, creation_id=each) for each in sorted(creation_ids)])


def _collection(found: retriever_pb2.VectorCollection, image_bytes: int = 0) -> pb.Collection:
    return pb.Collection(
        id=found.collection,
        model=found.model,
        metric=found.metric,
        index=found.index,
        image_count=found.vector_count,
        indexed_count=found.indexed_count,
        image_bytes=image_bytes,
        create_time=found.create_time,
        description=found.description,
        precision=found.precision,
        strict_precision=found.strict_precision,
        fidelity=found.fidelity if found.HasField("fidelity") else None,
    )
