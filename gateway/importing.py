"""Adding pictures: encode, then commit the bytes, then the vector, then acknowledge.

The order is what makes an interruption harmless: a vector never stands without its bytes, and nothing acknowledged is
lost. Encoding comes first because it finds the pictures that are none, and those must leave nothing behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.clients import Clients
from protos import encoder_pb2, imagestore_pb2, retriever_pb2, types_pb2
from protos import search_pb2 as pb
from services.common.calls import seconds_left
from services.common.errors import (
    Code,
    ImageExists,
    ImageTooLarge,
    InvalidField,
    ModelMismatch,
    NotBuiltYet,
    Overloaded,
    UnreadableImage,
    WentuError,
)
from services.common.fingerprint import Fingerprint
from services.common.ids import check_image_id
from services.common.wire_errors import from_item_error

MAX_ATTRIBUTES_BYTES = 64 * 1024
# How long a picture waits for an encoder that is full.
BUSY_SECONDS = 600.0
_CHOICES = frozenset(
    {
        types_pb2.IF_EXISTS_UNSPECIFIED,
        types_pb2.IF_EXISTS_REPLACE,
        types_pb2.IF_EXISTS_SKIP,
        types_pb2.IF_EXISTS_FAIL,
    }
)


@dataclass(frozen=True)
class Outcome:
    """How adding one picture ended."""

    status: pb.AddStatus.ValueType
    info: types_pb2.ImageInfo | None = None
    error: WentuError | None = None


def failed(error: WentuError) -> Outcome:
    return Outcome(pb.ADD_STATUS_FAILED, error=error)


def check_if_exists(value: types_pb2.IfExists.ValueType, field: str) -> None:
    if value not in _CHOICES:
        raise InvalidField(field, f"{value} is no choice")


class Importer:
    """Adds batches of pictures to one collection."""

    def __init__(
        self,
        clients: Clients,
        collection: retriever_pb2.VectorCollection,
        if_exists: types_pb2.IfExists.ValueType,
        max_image_bytes: int,
    ) -> None:
        self._clients = clients
        self._collection = collection
        self._if_exists = if_exists
        self._max_image_bytes = max_image_bytes

    async def add(self, uploads: Sequence[types_pb2.ImageUpload]) -> list[Outcome]:
        """One outcome a picture, in order. The ids must be distinct. Trouble is in the outcomes, never raised."""
        outcomes: dict[int, Outcome] = {}
        good: list[int] = []
        for place, upload in enumerate(uploads):
            try:
                self._check(upload)
                good.append(place)
            except WentuError as error:
                outcomes[place] = failed(error)
        try:
            outcomes |= zip(good, await self._add_good([uploads[place] for place in good]), strict=True)
        except WentuError as error:
            if error.code is Code.INVALID_ARGUMENT and len(good) > 1:  # one of them; the others must not suffer
                for place in good:
                    outcomes |= {place: (await self.add([uploads[place]]))[0]}
            else:
                outcomes |= {place: failed(error) for place in good}
        return [outcomes[place] for place in range(len(uploads))]

    def _check(self, upload: types_pb2.ImageUpload) -> None:
        check_image_id(upload.image_id, "image.image_id")
        if not upload.data:
            raise UnreadableImage("image.data", "holds no bytes")
        if len(upload.data) > self._max_image_bytes:
            raise ImageTooLarge("image.data", f"has {len(upload.data):,} bytes; the limit is {self._max_image_bytes:,}")
        if upload.attributes.ByteSize() > MAX_ATTRIBUTES_BYTES:
            raise InvalidField("image.attributes", f"must have at most {MAX_ATTRIBUTES_BYTES:,} bytes")
        if upload.HasField("embedding"):
            raise NotBuiltYet("image.embedding")

    async def _add_good(self, uploads: Sequence[types_pb2.ImageUpload]) -> list[Outcome]:
        if not uploads:
            return []
        stored, complete = await self._present([upload.image_id for upload in uploads])
        if self._if_exists in (types_pb2.IF_EXISTS_SKIP, types_pb2.IF_EXISTS_FAIL):
            wanted = [upload for upload in uploads if upload.image_id not in complete]
        else:
            wanted = list(uploads)
        done = await self._store(wanted, stored)
        return [done.get(upload.image_id) or self._present_outcome(upload.image_id) for upload in uploads]

    async def _present(self, image_ids: Sequence[str]) -> tuple[set[str], set[str]]:
        """Ids whose bytes are stored, and those of them that are searchable too."""
        stored = {blob.info.image_id for blob in await self._clients.get_blobs(self._collection.collection, image_ids)}
        if not stored or self._if_exists not in (types_pb2.IF_EXISTS_SKIP, types_pb2.IF_EXISTS_FAIL):
            return stored, set()
        records = await self._clients.get_vectors(
            self._collection.collection, sorted(stored), embeddings=False, strong=True
        )
        return stored, {record.image_id for record in records}

    def _present_outcome(self, image_id: str) -> Outcome:
        if self._if_exists == types_pb2.IF_EXISTS_FAIL:
            return failed(ImageExists(self._collection.collection, image_id))
        return Outcome(pb.ADD_STATUS_SKIPPED)

    async def _encode(self, images: Sequence[bytes]) -> encoder_pb2.EncodeImagesResponse:
        """Comes again as long as the encoder is full and says when: an import has time, its stream waits meanwhile."""
        give_up = time.monotonic() + min(BUSY_SECONDS, seconds_left() or BUSY_SECONDS)
        while True:
            try:
                return await self._clients.encode_images(images)
            except WentuError as error:
                pause = error.retry_after_seconds
                if error.reason != Overloaded.reason or pause is None or time.monotonic() + pause > give_up:
                    raise
            await asyncio.sleep(pause)

    async def _store(self, uploads: Sequence[types_pb2.ImageUpload], stored: set[str]) -> dict[str, Outcome]:
        """Encodes, commits the bytes, commits the vectors; outcomes by id."""
        if not uploads:
            return {}
        encoded = await self._encode([upload.data for upload in uploads])
        if encoded.model != self._collection.model:
            raise ModelMismatch(
                self._collection.collection,
                str(Fingerprint.from_message(self._collection.model)),
                str(Fingerprint.from_message(encoded.model)),
            )
        outcomes: dict[str, Outcome] = {}
        pairs: list[tuple[types_pb2.ImageUpload, encoder_pb2.ImageEmbedding]] = []
        for upload, result in zip(uploads, encoded.results, strict=True):
            if result.WhichOneof("outcome") == "error":
                outcomes[upload.image_id] = failed(from_item_error(result.error, "image.data"))
            else:
                pairs.append((upload, result))
        if not pairs:
            return outcomes
        infos = await self._clients.put_blobs(self._collection.collection, [_blob(*pair) for pair in pairs])
        await self._clients.upsert_vectors(
            retriever_pb2.UpsertVectorsRequest(
                collection=self._collection.collection,
                records=[
                    retriever_pb2.VectorRecord(
                        image_id=upload.image_id, embedding=result.embedding, attributes=upload.attributes
                    )
                    for upload, result in pairs
                ],
                model=encoded.model,
            )
        )
        for info in infos:
            status = pb.ADD_STATUS_REPLACED if info.image_id in stored else pb.ADD_STATUS_ADDED
            outcomes[info.image_id] = Outcome(status, info)
        return outcomes


def _blob(upload: types_pb2.ImageUpload, result: encoder_pb2.ImageEmbedding) -> imagestore_pb2.BlobUpload:
    return imagestore_pb2.BlobUpload(
        image_id=upload.image_id,
        data=upload.data,
        media_type=result.media_type,
        width=result.width,
        height=result.height,
    )
