"""Compares both stores, and repairs the leftovers of interruptions.

The image store holds everything that a vector is made from, attributes included, so lost vectors are made again. (A
vector store that was killed twice in a row lost writes that it had acknowledged.)

A difference may be a write that is still running. So each finding is checked again a moment later, and bytes are
removed only if they are older than any running write can be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from gateway.collections import drop_creations
from gateway.ingest.agreement import Agreement, attributes_of
from gateway.maintenance.merge_join import blobs_of, merge_join, vectors_of
from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.encoding import batches
from protos import admin_pb2 as pb
from protos import imagestore_pb2, retriever_pb2
from services.common.errors import WentuError, WriteUnderWay
from services.common.fingerprint import Fingerprint
from services.common.ids import check_collection
from services.common.wire_errors import item_error

log = structlog.get_logger()

# A write that is between its two stores at the first check is finished by the second one.
SECOND_LOOK_SECONDS = 1.0
LOOK_AT_ONCE = 500
TELL_EVERY = 1000


@dataclass(frozen=True)
class _Found:
    """A difference between the stores, with the records of both."""

    image_id: str
    kind: pb.FindingKind.ValueType
    blob: imagestore_pb2.Blob | None
    record: retriever_pb2.VectorRecord | None


def _kind(
    model: Fingerprint, blob: imagestore_pb2.Blob | None, record: retriever_pb2.VectorRecord | None
) -> pb.FindingKind.ValueType | None:
    """The kind of difference, or None. A vector passes if it is not known which bytes it was made from."""
    if record is None:
        return pb.FINDING_KIND_ORPHANED_BYTES if blob is not None else None
    if blob is None:
        return pb.FINDING_KIND_MISSING_BYTES
    if record.model_sha256 not in ("", model.checkpoint_sha256):
        return pb.FINDING_KIND_WRONG_MODEL
    stale = record.content_sha256 not in ("", blob.info.sha256) or attributes_of(blob, record) != record.attributes
    return pb.FINDING_KIND_STALE_VECTOR if stale else None


class Reconciler:
    """Compares and repairs collections."""

    def __init__(self, clients: Clients, settings: GatewaySettings) -> None:
        self._clients = clients
        self._settings = settings
        # A running write can have bytes without a vector for this long: one call to the retriever, with its retries.
        self._write_seconds = 2 * settings.timeout_seconds

    async def run(self, request: pb.ReconcileRequest) -> AsyncIterator[pb.ReconcileResponse]:
        """Reports each finding when it is repaired. The last message has the counts. Raises CollectionNotFound."""
        collection = check_collection(request.collection)
        # Listed first, so that later creations are not touched.
        creation_ids = set(await self._clients.imagestore.list_creations(collection))
        found = await self._clients.collections.get(collection, fresh=True)
        model = Fingerprint.from_message(found.model)
        leftover = await self._leftover(collection, creation_ids - {found.creation_id}, request.dry_run)
        checked = 0
        odd: list[str] = []
        pairs = merge_join(
            blobs_of(self._clients, collection, found.creation_id), vectors_of(self._clients, collection)
        )
        async for image_id, blob, record in pairs:
            checked += 1
            if _kind(model, blob, record) is not None:
                odd.append(image_id)
            if len(odd) == LOOK_AT_ONCE:
                async for answer in self.settle(collection, odd, request):
                    yield answer
                odd.clear()
            if checked % TELL_EVERY == 0:
                yield pb.ReconcileResponse(checked_count=checked)
        async for answer in self.settle(collection, odd, request):
            yield answer
        yield pb.ReconcileResponse(checked_count=checked, leftover_count=leftover)

    async def _leftover(self, collection: str, creation_ids: Iterable[str], dry_run: bool) -> int:
        """Remove images that deleted collections of this id left behind, except in a dry run. Returns their number."""
        if not dry_run:
            return await drop_creations(self._clients, collection, creation_ids)
        counts = [await self._clients.imagestore.count_blobs(collection, creation_id=each) for each in creation_ids]
        return sum(count.count for count in counts)

    async def settle(
        self, collection: str, image_ids: Sequence[str], request: pb.ReconcileRequest
    ) -> AsyncIterator[pb.ReconcileResponse]:
        """Check these findings again, and repair those that still exist."""
        if not image_ids:
            return
        await asyncio.sleep(SECOND_LOOK_SECONDS)
        known = await self._clients.collections.get(collection)
        agreement = Agreement(self._clients, self._settings, collection, known.creation_id)
        found = await self._look(known, image_ids)
        if request.dry_run:
            for each in found:
                yield pb.ReconcileResponse(image_id=each.image_id, kind=each.kind)
            return
        without_bytes = [each for each in found if each.kind == pb.FINDING_KIND_MISSING_BYTES]
        orphans = [each for each in found if each.kind == pb.FINDING_KIND_ORPHANED_BYTES]
        removable = orphans if request.remove_orphans else []
        to_encode = [each for each in found if each not in without_bytes and each not in removable]
        for answer in await _dealt_with(agreement.delete, without_bytes):
            yield answer
        for answer in await self._remove_bytes(known, removable):
            yield answer
        for batch in batches(to_encode, _size, self._settings):
            for answer in await _dealt_with(agreement.remake, batch):
                yield answer

    async def _look(self, known: retriever_pb2.VectorCollection, image_ids: Sequence[str]) -> list[_Found]:
        # Vectors are read first. A write between the two reads can then show bytes that are newer than the vector, but
        # never a vector without bytes.
        vectors = await self._clients.retriever.get_vectors(known.collection, image_ids, embeddings=False, strong=True)
        records = {record.image_id: record for record in vectors.records}
        blobs = {
            blob.info.image_id: blob
            for blob in await self._clients.imagestore.get_blobs(
                known.collection, image_ids, creation_id=known.creation_id, attributes=True
            )
        }
        model = Fingerprint.from_message(known.model)
        found = []
        for image_id in image_ids:
            blob, record = blobs.get(image_id), records.get(image_id)
            if (kind := _kind(model, blob, record)) is not None:
                found.append(_Found(image_id, kind, blob, record))
        return found

    async def _remove_bytes(
        self, known: retriever_pb2.VectorCollection, found: Sequence[_Found]
    ) -> list[pb.ReconcileResponse]:
        oldest = time.time() - self._write_seconds
        old = [
            each
            for each in found
            if each.blob is not None and each.blob.info.create_time.ToNanoseconds() / 1e9 < oldest
        ]
        answers = [
            _failed(each, WriteUnderWay(f"bytes younger than {self._write_seconds:g} s may still get their vector"))
            for each in found
            if each not in old
        ]
        if old:
            try:
                await self._clients.imagestore.delete_blobs(
                    known.collection,
                    [each.image_id for each in old],
                    creation_id=known.creation_id,
                    revisions=[each.blob.revision for each in old if each.blob is not None],
                )
            except WentuError as error:
                return answers + [_failed(each, error) for each in old]
        return answers + [_repaired(each) for each in old]


async def _dealt_with(
    repair: Callable[[Sequence[str]], Awaitable[Mapping[str, WentuError]]], found: Sequence[_Found]
) -> list[pb.ReconcileResponse]:
    """The outcomes of a repair. `errors` has the ids that could not be repaired."""
    if not found:
        return []
    try:
        errors = await repair([each.image_id for each in found])
    except WentuError as error:
        return [_failed(each, error) for each in found]
    return [_failed(each, errors[each.image_id]) if each.image_id in errors else _repaired(each) for each in found]


def _size(found: _Found) -> int:
    return found.blob.info.size_bytes if found.blob is not None else 0


def _repaired(found: _Found) -> pb.ReconcileResponse:
    return pb.ReconcileResponse(image_id=found.image_id, kind=found.kind, repaired=True)


def _failed(found: _Found, error: WentuError) -> pb.ReconcileResponse:
    log.warning("not repaired", image_id=found.image_id, problem=error.message)
    return pb.ReconcileResponse(image_id=found.image_id, kind=found.kind, error=item_error(error))
