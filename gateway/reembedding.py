"""A collection under a new model, while the old vectors serve.

The next generation is compared with the image store, id by id, and what is missing or different is made from the
stored bytes; again and again until nothing differs, for writes go on meanwhile, to both generations. So it may stop
anywhere and be begun again, and it sees to a write that reached only one of the two, and to vectors that were lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from gateway.clients import Clients
from gateway.encoding import batches, encode_patiently
from gateway.listing import attributes_of, blobs_of, side_by_side, vectors_of
from gateway.settings import GatewaySettings
from protos import admin_pb2 as pb
from protos import imagestore_pb2, retriever_pb2
from services.common.errors import ModelMismatch
from services.common.fingerprint import Fingerprint
from services.common.ids import check_collection
from services.common.wire_errors import from_item_error

Record = retriever_pb2.VectorRecord


class Reembedder:
    """Brings collections to the first encoder's model."""

    def __init__(self, clients: Clients, settings: GatewaySettings) -> None:
        self._clients = clients
        self._settings = settings

    async def run(self, request: pb.ReembedRequest) -> AsyncIterator[pb.ReembedResponse]:
        """How far it is, and at the end that the new vectors serve. Raises CollectionNotFound, UnreadableImage."""
        collection = check_collection(request.collection)
        own = await self._clients.encoders.first.get_model()
        model = Fingerprint.from_message(own.model)
        found = await self._clients.begin_rebuild(
            retriever_pb2.BeginRebuildRequest(
                collection=collection, model=own.model, precision=own.precision, fidelity=own.fidelity
            )
        )
        if not Fingerprint.from_message(found.model).fits(model):
            total = (await self._clients.count_blobs(collection)).count
            done = 0
            while True:
                written = 0
                async for count in self._pass(collection, model):
                    written += count
                    done += count
                    yield pb.ReembedResponse(done_count=done, total_count=total)
                if not written:
                    break
        # Also where all is done already: the old generation may still be there.
        await self._clients.commit_rebuild(collection)
        counted = (await self._clients.get_collection(collection, count=True)).vector_count
        yield pb.ReembedResponse(done_count=counted, total_count=counted, committed=True)

    async def _pass(self, collection: str, model: Fingerprint) -> AsyncIterator[int]:
        """Compares once; the numbers of records that were brought in line."""
        differing: list[str] = []
        pairs = side_by_side(blobs_of(self._clients, collection), vectors_of(self._clients, collection, rebuild=True))
        async for image_id, blob, new in pairs:
            if not _made(blob, new):
                differing.append(image_id)
            if len(differing) == self._settings.import_batch:
                yield await self._align(collection, model, differing)
                differing.clear()
        if differing:
            yield await self._align(collection, model, differing)

    async def _align(self, collection: str, model: Fingerprint, image_ids: Sequence[str]) -> int:
        """The number of those that were brought in line. What changes meanwhile differs in the next pass."""
        new = await self._records(collection, image_ids, rebuild=True)
        blobs = {
            blob.info.image_id: blob for blob in await self._clients.get_blobs(collection, image_ids, attributes=True)
        }
        # What has no bytes is found by no search that shows it: it stays behind.
        gone = [image_id for image_id in new if image_id not in blobs]
        if gone:
            await self._clients.delete_vectors(collection, gone, rebuild_only=True)
        stale = [blob.info for image_id, blob in blobs.items() if not _made(blob, new.get(image_id))]
        for batch in batches(stale, lambda info: info.size_bytes, self._settings):
            await self._make(collection, model, [info.image_id for info in batch])
        return len(gone) + len(stale)

    async def _make(self, collection: str, model: Fingerprint, image_ids: Sequence[str]) -> None:
        """Their vectors in the next generation."""
        blobs = await self._clients.get_blobs(collection, image_ids, data=True, attributes=True)
        if not blobs:
            return
        unsaid = [blob.info.image_id for blob in blobs if not blob.HasField("attributes")]
        old = await self._records(collection, unsaid, rebuild=False) if unsaid else {}
        encoded = await encode_patiently(self._clients, model, [blob.data for blob in blobs])
        if not (made_by := Fingerprint.from_message(encoded.model)).fits(model):
            raise ModelMismatch(collection, str(model), str(made_by))
        records = []
        for blob, result in zip(blobs, encoded.results, strict=True):
            image_id = blob.info.image_id
            if result.WhichOneof("outcome") == "error":
                raise from_item_error(result.error, f"image {image_id!r}")
            records.append(
                Record(
                    image_id=image_id,
                    embedding=result.embedding,
                    attributes=attributes_of(blob, old.get(image_id)),
                    content_sha256=blob.info.sha256,
                )
            )
        await self._clients.upsert_vectors(
            retriever_pb2.UpsertVectorsRequest(
                collection=collection, records=records, model=model.to_message(), precision=encoded.precision
            )
        )

    async def _records(self, collection: str, image_ids: Sequence[str], *, rebuild: bool) -> dict[str, Record]:
        found = await self._clients.get_vectors(collection, image_ids, embeddings=False, strong=True, rebuild=rebuild)
        return {record.image_id: record for record in found}


def _made(blob: imagestore_pb2.Blob | None, new: Record | None) -> bool:
    """Whether the next generation has a picture as it is to be, or has not what is not there."""
    if blob is None or new is None:
        return blob is None and new is None
    return new.content_sha256 == blob.info.sha256 and attributes_of(blob, new) == new.attributes
