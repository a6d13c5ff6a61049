"""Gives a collection the vectors of a new model, while the old vectors still serve.

The next generation is compared with the image store, id by id. Missing or different vectors are made from the stored
bytes. This repeats until nothing differs, since callers write to both generations at the same time. So the work can be
interrupted at any point and started again. It also repairs writes that reached only one generation, and lost vectors.
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
# A deletion removes the vector before the bytes. If the bytes are copied in between, the difference shows only later.
SETTLE_SECONDS = 2.0


class Reembedder:
    """Re-embeds collections with the first encoder's model."""

    def __init__(self, clients: Clients, settings: GatewaySettings) -> None:
        self._clients = clients
        self._settings = settings

    async def run(self, request: pb.ReembedRequest) -> AsyncIterator[pb.ReembedResponse]:
        """Reports progress, and at the end that the new vectors serve. Raises CollectionNotFound, UnreadableImage."""
        collection = check_collection(request.collection)
        own = await self._clients.encoders.first.get_model()
        model = Fingerprint.from_message(own.model)
        found = await self._clients.retriever.begin_rebuild(
            retriever_pb2.BeginRebuildRequest(
                collection=collection, model=own.model, precision=own.precision, fidelity=own.fidelity
            )
        )
        if not Fingerprint.from_message(found.model).fits(model):
            total = (await self._clients.imagestore.count_blobs(collection, creation_id=found.creation_id)).count
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
        # Done even if nothing differed, since the old generation may still exist.
        await self._clients.retriever.commit_rebuild(collection)
        counted = (await self._clients.retriever.get_collection(collection, count=True)).vector_count
        yield pb.ReembedResponse(done_count=counted, total_count=counted, committed=True)

    async def _pass(self, known: retriever_pb2.VectorCollection, model: Fingerprint) -> AsyncIterator[int]:
        """Compare once. Yields the numbers of corrected records."""
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
        """Correct these records. Returns their number. Concurrent changes will differ in the next pass."""
        found = await self._clients.retriever.get_vectors(
            known.collection, image_ids, embeddings=False, strong=True, rebuild=True
        )
        new = {record.image_id: record for record in found.records}
        blobs = {
            blob.info.image_id: blob
            for blob in await self._clients.imagestore.get_blobs(
                known.collection, image_ids, creation_id=known.creation_id, attributes=True
            )
        }
        agreement = Agreement(self._clients, self._settings, known.collection, known.creation_id)
        # Vectors without bytes are not copied, since no search may show them.
        gone = [image_id for image_id in new if image_id not in blobs]
        errors = await agreement.delete(gone, rebuild_only=True) if gone else {}
        stale = [blob.info for image_id, blob in blobs.items() if not _made(blob, new.get(image_id))]
        for batch in batches(stale, lambda info: info.size_bytes, self._settings):
            errors |= await agreement.remake([info.image_id for info in batch], model)
        for error in errors.values():
            raise error
        return len(gone) + len(stale)


def _made(blob: imagestore_pb2.Blob | None, new: Record | None) -> bool:
    """Whether the next generation agrees with the image store for one id."""
    if blob is None or new is None:
        return blob is None and new is None
    return new.content_sha256 == blob.info.sha256 and attributes_of(blob, new) == new.attributes
