"""Reads, lists and deletes images."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from gateway.ingest.agreement import Agreement
from gateway.ingest.unfinished import LookAfter, finished_or
from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from protos import retriever_pb2, types_pb2
from protos import search_pb2 as pb
from services.common.errors import CollectionNotFound, ImageNotFound, InvalidField, WentuError
from services.common.ids import check_collection, check_image_id, check_image_ids, check_known
from services.common.limits import MAX_PAGE_SIZE


class Images:
    """The operations on stored images."""

    def __init__(self, clients: Clients, settings: GatewaySettings, look_after: LookAfter) -> None:
        self._clients = clients
        self._settings = settings
        self._look_after = look_after

    async def read(self, request: pb.GetImageRequest) -> AsyncIterator[pb.GetImageResponse]:
        """Read an image: first its info, then its bytes in chunks. Works while the retriever is down.

        Raises ImageNotFound, CollectionNotFound.
        """
        collection, image_id = check_collection(request.collection), check_image_id(request.image_id)
        check_known(request.rendition, types_pb2.Rendition, "rendition")
        try:
            async for part in self._clients.imagestore.read_blob(collection, image_id, request.rendition):
                if part.WhichOneof("part") == "info":
                    yield pb.GetImageResponse(info=part.info)
                else:
                    yield pb.GetImageResponse(chunk=part.chunk)
        except ImageNotFound:
            await self._say_if_unknown(collection)
            raise

    async def details(self, request: pb.GetImageDetailsRequest) -> pb.GetImageDetailsResponse:
        found = await self._clients.retriever.get_vectors(
            check_collection(request.collection),
            check_image_ids(request.image_ids),
            embeddings=request.include_embeddings,
            strong=True,
        )
        images = await self._with_infos(request.collection, found.creation_id, found.records)
        return pb.GetImageDetailsResponse(images=images)

    async def page(self, request: pb.ListImagesRequest) -> pb.ListImagesResponse:
        found = await self._clients.retriever.list_vectors(
            retriever_pb2.ListVectorsRequest(
                collection=check_collection(request.collection),
                page_size=request.page_size,
                page_token=request.page_token,
                filter=request.filter if request.HasField("filter") else None,
            )
        )
        images = await self._with_infos(request.collection, found.creation_id, found.records)
        return pb.ListImagesResponse(images=images, next_page_token=found.next_page_token)

    async def delete(self, request: pb.DeleteImagesRequest) -> pb.DeleteImagesResponse:
        """Delete images by ids, with one outcome per id, or all images that match a filter."""
        collection = check_collection(request.collection)
        selection = request.WhichOneof("selection")
        if selection is None:
            raise InvalidField("selection", 'must be set: {"ids": {"image_ids": [...]}} or {"filter": {...}}')
        if selection == "filter":
            return pb.DeleteImagesResponse(deleted_count=await self._delete_those(collection, request.filter))
        image_ids = check_image_ids(request.ids.image_ids, "ids.image_ids")
        gone = await self._clients.collections.on_creation(
            collection, lambda creation_id: self._delete(collection, creation_id, image_ids)
        )
        return pb.DeleteImagesResponse(
            deleted_count=len(gone),
            outcomes=[pb.DeleteOutcome(image_id=image_id, deleted=image_id in gone) for image_id in image_ids],
        )

    async def _delete_those(self, collection: str, where: types_pb2.Filter) -> int:
        deleted, token = 0, ""
        while True:
            found = await self._clients.retriever.list_vectors(
                retriever_pb2.ListVectorsRequest(
                    collection=collection,
                    page_size=MAX_PAGE_SIZE,
                    page_token=token,
                    filter=where,
                    consistency=types_pb2.CONSISTENCY_STRONG,
                )
            )
            if found.records:
                image_ids = [record.image_id for record in found.records]
                deleted += len(await self._delete(collection, found.creation_id, image_ids))
            if not (token := found.next_page_token):
                return deleted

    async def _delete(self, collection: str, creation_id: str, image_ids: Sequence[str]) -> set[str]:
        """Delete the vectors first, since a search must not find images without bytes.

        Vectors are deleted again after the bytes: a concurrent import may have written new ones in between.
        """
        agreement = Agreement(self._clients, self._settings, collection, creation_id)
        await agreement.delete_first(image_ids)
        gone = set(await self._clients.imagestore.delete_blobs(collection, image_ids, creation_id=creation_id))
        with finished_or(self._look_after, collection, image_ids):
            errors = await agreement.delete(image_ids)
        for error in errors.values():
            raise error
        return gone

    async def _with_infos(
        self, collection: str, creation_id: str, records: Sequence[retriever_pb2.VectorRecord]
    ) -> list[pb.ImageDetails]:
        """The records whose images have bytes, each with the facts from the image store."""
        if not records:
            return []
        image_ids = [record.image_id for record in records]
        blobs = await self._clients.imagestore.get_blobs(collection, image_ids, creation_id=creation_id)
        infos = {blob.info.image_id: blob.info for blob in blobs}
        images = []
        for record in records:
            if record.image_id in infos:
                details = pb.ImageDetails(image=infos[record.image_id], attributes=record.attributes)
                if record.HasField("embedding"):
                    details.embedding.CopyFrom(record.embedding)
                images.append(details)
        return images

    async def _say_if_unknown(self, collection: str) -> None:
        """Raises CollectionNotFound if the retriever knows that the collection is missing."""
        try:
            await self._clients.retriever.get_collection(collection)
        except CollectionNotFound:
            raise
        except WentuError:
            return  # the retriever does not answer, so the image store's answer must do
