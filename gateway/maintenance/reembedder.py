"""A collection under a new model, while the old vectors serve.

The next generation is compared with the image store, id by id, and what is missing or different is made from the
stored bytes; again and again until nothing differs, for writes go on meanwhile, to both generations. So it may stop
anywhere and be begun again, and it sees to a write that reached only one of the two, and to vectors that were lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from gateway.ingest.agreement import Agreement, attributes_of
from gateway.maintenance.merge_join import blobs_of, merge_join, vectors_of
from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.encoding import batches
from protos import admin_pb2 as pb
from protos import imagestore_pb2, retriever_pb2
from services.common.fingerprint import Fingerprint
from services.common.ids import check_collection

Record = retriever_pb2.VectorRecord
# A delete takes the vector first: a copy that was made of the bytes meanwhile differs only once they are gone too.
SETTLE_SECONDS = 2.0


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
            total = (await self._clients.count_blobs(collection, creation_id=found.creation_id)).count
            done = 0
            while True:
                written = 0
                async for count in self._pass(found, model):
                    written += count
                    done += count
                    yield pb.ReembedResponse(done_count=done, total_count=total)
                if not written:
                    break
                await asyncio.sleep(SETTLE_SECONDS)
        # Also where all is done already: the old generation may still be there.
        await self._clients.commit_rebuild(collection)
        counted = (await self._clients.get_collection(collection, count=True)).vector_count
        yield pb.ReembedResponse(done_count=counted, total_count=counted, committed=True)

    async def _pass(self, known: retriever_pb2.VectorCollection, model: Fingerprint) -> AsyncIterator[int]:
        """Compares once; the numbers of records that were brought in line."""
        differing: list[str] = []
        pairs = merge_join(
            blobs_of(self._clients, known.collection, known.creation_id),
            vectors_of(self._clients, known.collection, rebuild=True),
        )
        async for image_id, blob, new in pairs:
            if not _made(blob, new):
                differing.append(image_id)
            if len(differing) == self._settings.import_batch:
                yield await self._align(known, model, differing)
                differing.clear()
        if differing:
            yield await self._align(known, model, differing)

    async def _align(self, known: retriever_pb2.VectorCollection, model: Fingerprint, image_ids: Sequence[str]) -> int:
        """The number of those that were brought in line. What changes meanwhile differs in the next pass."""
        found = await self._clients.get_vectors(
            known.collection, image_ids, embeddings=False, strong=True, rebuild=True
        )
        new = {record.image_id: record for record in found.records}
        blobs = {
            blob.info.image_id: blob
            for blob in await self._clients.get_blobs(
                known.collection, image_ids, creation_id=known.creation_id, attributes=True
            )
        }
        agreement = Agreement(self._clients, self._settings, known.collection, known.creation_id)
        # What has no bytes is found by no search that shows it: it stays behind.
        gone = [image_id for image_id in new if image_id not in blobs]
        errors = await agreement.delete(gone, rebuild_only=True) if gone else {}
        stale = [blob.info for image_id, blob in blobs.items() if not _made(blob, new.get(image_id))]
        for batch in batches(stale, lambda info: info.size_bytes, self._settings):
            errors |= await agreement.remake([info.image_id for info in batch], model)
        for error in errors.values():
            raise error
        return len(gone) + len(stale)


def _made(blob: imagestore_pb2.Blob | None, new: Record | None) -> bool:
    """Whether the next generation has an image as it is to be, or has not what is not there."""
    if blob is None or new is None:
        return blob is None and new is None
    return new.content_sha256 == blob.info.sha256 and attributes_of(blob, new) == new.attributes
