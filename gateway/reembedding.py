"""A collection under a new model, while the old vectors serve.

The next generation is compared with the current one, id by id, and what is missing or different is made from the stored
bytes; again and again until nothing differs, for writes go on meanwhile, to both. So it may stop anywhere and be begun
again, and it sees to a write that reached only one of the two.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from gateway.clients import Clients
from gateway.encoding import batches, encode_patiently
from gateway.listing import side_by_side, vectors_of
from gateway.plausibility import check_plausible
from gateway.settings import GatewaySettings
from protos import admin_pb2 as pb
from protos import retriever_pb2, types_pb2
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
        model = (await self._clients.encoders.first.get_model()).model
        found = await self._clients.begin_rebuild(collection, model)
        if found.model != model:
            total = (await self._clients.get_collection(collection, count=True)).vector_count
            done = 0
            while True:
                seen = written = 0
                async for compared, aligned in self._pass(collection, Fingerprint.from_message(model)):
                    seen += compared
                    written += aligned
                    done += aligned
                    yield pb.ReembedResponse(done_count=done, total_count=total)
                if not written:
                    break
            # What goes with the old generation is gone.
            pictures = (await self._clients.count_blobs(collection)).count
            check_plausible(pictures - seen, pictures)
        # Also where all is done already: the old generation may still be there.
        await self._clients.commit_rebuild(collection)
        counted = (await self._clients.get_collection(collection, count=True)).vector_count
        yield pb.ReembedResponse(done_count=counted, total_count=counted, committed=True)

    async def _pass(self, collection: str, model: Fingerprint) -> AsyncIterator[tuple[int, int]]:
        """Compares both generations once; of each step, how many records it saw and how many it brought in line."""
        seen = 0
        differing: list[str] = []
        pairs = side_by_side(
            vectors_of(self._clients, collection),
            vectors_of(self._clients, collection, rebuild=True),
        )
        async for image_id, old, new in pairs:
            seen += 1
            if not _same(old, new):
                differing.append(image_id)
            if len(differing) == self._settings.import_batch:
                yield seen, await self._align(collection, model, differing)
                seen = 0
                differing.clear()
        yield seen, await self._align(collection, model, differing) if differing else 0

    async def _align(self, collection: str, model: Fingerprint, image_ids: Sequence[str]) -> int:
        """The number of those that were brought in line. What changes meanwhile differs in the next pass."""
        old, new = [await self._records(collection, image_ids, rebuild) for rebuild in (False, True)]
        infos = {blob.info.image_id: blob.info for blob in await self._clients.get_blobs(collection, image_ids)}
        # What has no vector or no bytes is found by no search, or by none that shows it: it stays behind.
        gone = [image_id for image_id in new if image_id not in old or image_id not in infos]
        if gone:
            await self._clients.delete_vectors(collection, gone, rebuild_only=True)
        stale = [
            infos[image_id]
            for image_id, record in old.items()
            if image_id in infos and not _made(record, infos[image_id], new.get(image_id))
        ]
        for batch in batches(stale, lambda info: info.size_bytes, self._settings):
            await self._make(collection, model, [info.image_id for info in batch], old)
        return len(gone) + len(stale)

    async def _make(
        self, collection: str, model: Fingerprint, image_ids: Sequence[str], old: Mapping[str, Record]
    ) -> None:
        """Their vectors in the next generation."""
        blobs = await self._clients.get_blobs(collection, image_ids, data=True)
        if not blobs:
            return
        encoded = await encode_patiently(self._clients, model, [blob.data for blob in blobs])
        if encoded.model != model.to_message():
            raise ModelMismatch(collection, str(model), str(Fingerprint.from_message(encoded.model)))
        records = []
        for blob, result in zip(blobs, encoded.results, strict=True):
            image_id = blob.info.image_id
            if result.WhichOneof("outcome") == "error":
                raise from_item_error(result.error, f"image {image_id!r}")
            records.append(
                Record(
                    image_id=image_id,
                    embedding=result.embedding,
                    attributes=old[image_id].attributes,
                    content_sha256=blob.info.sha256,
                    restored=old[image_id].restored,
                )
            )
        await self._clients.upsert_vectors(
            retriever_pb2.UpsertVectorsRequest(collection=collection, records=records, model=model.to_message())
        )

    async def _records(self, collection: str, image_ids: Sequence[str], rebuild: bool) -> dict[str, Record]:
        found = await self._clients.get_vectors(collection, image_ids, embeddings=False, strong=True, rebuild=rebuild)
        return {record.image_id: record for record in found}


def _same(old: Record | None, new: Record | None) -> bool:
    """Whether both generations have a picture, or neither, made from the same bytes and with the same attributes."""
    if old is None or new is None:
        return old is new
    return _known(old) == _known(new) and old.content_sha256 == new.content_sha256


def _made(old: Record, info: types_pb2.ImageInfo, new: Record | None) -> bool:
    """Whether the next generation has it as it is to be."""
    return new is not None and _known(old) == _known(new) and new.content_sha256 == info.sha256


def _known(record: Record) -> tuple[object, bool]:
    return record.attributes, record.restored
