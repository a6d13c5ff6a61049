"""Adding images: encode, then commit the bytes, then the vector, then acknowledge.

The order is what makes an interruption harmless: a vector never stands without its bytes, and nothing acknowledged is
lost. Encoding comes first because it finds the files that are not images, and those must leave nothing
behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.ingest.agreement import Agreement, StoredImage, Vectors
from gateway.precision import PrecisionNotes, check_strict
from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.encoding import encode_patiently
from protos import encoder_pb2, imagestore_pb2, retriever_pb2, types_pb2
from protos import search_pb2 as pb
from services.common.attributes import check_attributes
from services.common.errors import (
    Code,
    CollectionNotFound,
    ImageExists,
    ImageTooLarge,
    InvalidField,
    ModelMismatch,
    NotImplementedYet,
    UnreadableImage,
    WentuError,
)
from services.common.fingerprint import Fingerprint
from services.common.ids import check_image_id
from services.common.thread_pool import aside
from services.common.wire_errors import from_item_error

_CHOICES = frozenset(
    {
        types_pb2.IF_EXISTS_UNSPECIFIED,
        types_pb2.IF_EXISTS_REPLACE,
        types_pb2.IF_EXISTS_SKIP,
        types_pb2.IF_EXISTS_FAIL,
    }
)
_KEEPING = frozenset({types_pb2.IF_EXISTS_SKIP, types_pb2.IF_EXISTS_FAIL})


@dataclass(frozen=True)
class Outcome:
    """How adding one image ended."""

    status: pb.AddStatus.ValueType
    info: types_pb2.ImageInfo | None = None
    error: WentuError | None = None
    notes: Sequence[pb.Note.ValueType] = ()


@dataclass(frozen=True)
class Encoded:
    """Vectors by image id, and why others have none. `precision`: of those in `new`, which were encoded just now."""

    vectors: Mapping[str, encoder_pb2.ImageEmbedding]
    failed: Mapping[str, Outcome]
    new: frozenset[str] = frozenset()
    precision: str = ""


def failed(error: WentuError) -> Outcome:
    return Outcome(pb.ADD_STATUS_FAILED, error=error)


def check_if_exists(value: types_pb2.IfExists.ValueType, field: str) -> None:
    if value not in _CHOICES:
        raise InvalidField(field, f"{value} is not a choice")


class Importer:
    """Adds batches of images to one creation of a collection, and to none that is created after it."""

    def __init__(
        self,
        clients: Clients,
        settings: GatewaySettings,
        collection: str,
        creation_id: str,
        if_exists: types_pb2.IfExists.ValueType,
        notes: PrecisionNotes,
    ) -> None:
        self._clients = clients
        self._collection = collection
        self._creation_id = creation_id
        self._if_exists = if_exists
        self._max_image_bytes = settings.max_image_bytes
        self._agreement = Agreement(clients, settings, collection, creation_id)
        self._notes = notes

    async def add(self, uploads: Sequence[types_pb2.ImageUpload]) -> list[Outcome]:
        """One outcome per image, in order. The ids must be distinct. Trouble is in the outcomes, never raised."""
        attributes_bytes = sum(upload.attributes.ByteSize() for upload in uploads)
        outcomes = await aside(attributes_bytes, self._refused, uploads)
        good = [place for place in range(len(uploads)) if place not in outcomes]
        try:
            outcomes |= zip(good, await self._add_good([uploads[place] for place in good]), strict=True)
        except WentuError as error:
            if error.code is Code.INVALID_ARGUMENT and len(good) > 1:  # one of them; the others must not suffer
                for place in good:
                    outcomes |= {place: (await self.add([uploads[place]]))[0]}
            else:
                outcomes |= {place: failed(error) for place in good}
        return [outcomes[place] for place in range(len(uploads))]

    def _refused(self, uploads: Sequence[types_pb2.ImageUpload]) -> dict[int, Outcome]:
        """The outcomes of those that are refused as they are, by place."""
        outcomes: dict[int, Outcome] = {}
        for place, upload in enumerate(uploads):
            try:
                self._check(upload)
            except WentuError as error:
                outcomes[place] = failed(error)
        return outcomes

    def _check(self, upload: types_pb2.ImageUpload) -> None:
        check_image_id(upload.image_id, "image.image_id")
        if not upload.data:
            raise UnreadableImage("image.data", "holds no bytes")
        if len(upload.data) > self._max_image_bytes:
            raise ImageTooLarge("image.data", f"has {len(upload.data):,} bytes; the limit is {self._max_image_bytes:,}")
        check_attributes(upload.attributes, "image.attributes")
        if upload.HasField("embedding"):
            raise NotImplementedYet("image.embedding")

    async def _add_good(self, uploads: Sequence[types_pb2.ImageUpload]) -> list[Outcome]:
        if not uploads:
            return []
        image_ids = [upload.image_id for upload in uploads]
        found = await self._clients.get_blobs(self._collection, image_ids, creation_id=self._creation_id)
        stored = {blob.info.image_id: blob.info for blob in found}
        complete = await self._complete(stored) if self._if_exists in _KEEPING else set()
        wanted = [upload for upload in uploads if upload.image_id not in complete]
        done = await self._written(wanted, stored) if wanted else {}
        return [done.get(image_id) or self._kept(image_id) for image_id in image_ids]

    async def _complete(self, stored: Mapping[str, types_pb2.ImageInfo]) -> set[str]:
        """Those of the stored ids that need nothing more: searchable, by a vector of these very bytes."""
        if not stored:
            return set()
        found = await self._clients.get_vectors(self._collection, sorted(stored), embeddings=False, strong=True)
        if found.creation_id != self._creation_id:
            raise CollectionNotFound(self._collection)
        return {
            record.image_id for record in found.records if record.content_sha256 in ("", stored[record.image_id].sha256)
        }

    def _kept(self, image_id: str) -> Outcome:
        if self._if_exists == types_pb2.IF_EXISTS_FAIL:
            return failed(ImageExists(self._collection, image_id))
        return Outcome(pb.ADD_STATUS_SKIPPED)

    async def _written(
        self, uploads: Sequence[types_pb2.ImageUpload], stored: Mapping[str, types_pb2.ImageInfo]
    ) -> dict[str, Outcome]:
        """Encodes, commits the bytes, commits the vectors; outcomes by id."""
        try:
            collection, encoded = await self._encoded(uploads, stored)
        except (ModelMismatch, CollectionNotFound):  # perhaps re-embedded, or created again, a moment ago
            collection, encoded = await self._encoded(uploads, stored, fresh=True)
        with self._notes.counting("import", len(encoded.new)):
            check_strict(collection, encoded.precision)  # before the bytes are committed
        outcomes = dict(encoded.failed)
        good = [upload for upload in uploads if upload.image_id in encoded.vectors]
        if not good:
            return outcomes
        with self._clients.told_if_unfinished(self._collection, [upload.image_id for upload in good]):
            put = await self._clients.put_blobs(
                self._collection,
                [_blob(upload, encoded.vectors[upload.image_id]) for upload in good],
                creation_id=self._creation_id,
            )
            images = [
                StoredImage(upload.image_id, upload.data, upload.attributes, info.sha256, revision)
                for upload, info, revision in zip(good, put.infos, put.revisions, strict=True)
            ]
            embeddings = {image_id: result.embedding for image_id, result in encoded.vectors.items()}
            made = {Fingerprint.from_message(collection.model): Vectors(embeddings, encoded.precision)}
            errors = await self._agreement.write(images, made)
        for info in put.infos:
            if info.image_id in errors:
                outcomes[info.image_id] = failed(errors[info.image_id])
                continue
            status = pb.ADD_STATUS_REPLACED if info.image_id in stored else pb.ADD_STATUS_ADDED
            precision = encoded.precision if info.image_id in encoded.new else ""
            notes = self._notes.of(collection.precision, precision, "import")
            outcomes[info.image_id] = Outcome(status, info, notes=notes)
        return outcomes

    async def _encoded(
        self,
        uploads: Sequence[types_pb2.ImageUpload],
        stored: Mapping[str, types_pb2.ImageInfo],
        *,
        fresh: bool = False,
    ) -> tuple[retriever_pb2.VectorCollection, Encoded]:
        """Vectors for the collection as it is. What is stored with the same bytes is not encoded again."""
        collection = await self._agreement.collection(fresh)
        model = Fingerprint.from_message(collection.model)
        outcomes: dict[str, Outcome] = {}
        vectors = await self._same(model, uploads, stored)
        missing = [upload for upload in uploads if upload.image_id not in vectors]
        if not missing:
            return collection, Encoded(vectors, outcomes)
        answer = await encode_patiently(self._clients, model, [upload.data for upload in missing])
        if not (made_by := Fingerprint.from_message(answer.model)).fits(model):
            raise ModelMismatch(self._collection, str(model), str(made_by))
        for upload, result in zip(missing, answer.results, strict=True):
            if result.WhichOneof("outcome") == "error":
                outcomes[upload.image_id] = failed(from_item_error(result.error, "image.data"))
            else:
                vectors[upload.image_id] = result
        new = frozenset(upload.image_id for upload in missing)
        return collection, Encoded(vectors, outcomes, new, answer.precision)

    async def _same(
        self,
        model: Fingerprint,
        uploads: Sequence[types_pb2.ImageUpload],
        stored: Mapping[str, types_pb2.ImageInfo],
    ) -> dict[str, encoder_pb2.ImageEmbedding]:
        """Vectors that the collection has already, made by this model from the bytes that are uploaded.

        An old read will do: what a vector was made from stands beside it.
        """
        hashes = {
            upload.image_id: hashlib.sha256(upload.data).hexdigest() for upload in uploads if upload.image_id in stored
        }
        same = sorted(image_id for image_id, sha256 in hashes.items() if stored[image_id].sha256 == sha256)
        if not same:
            return {}
        known = await self._clients.get_vectors(self._collection, same, embeddings=True, strong=False)
        found = {}
        for record in known.records:
            made_from = (record.content_sha256, record.model_sha256)
            if made_from == (hashes[record.image_id], model.checkpoint_sha256):
                info = stored[record.image_id]
                found[record.image_id] = encoder_pb2.ImageEmbedding(
                    embedding=record.embedding, media_type=info.media_type, width=info.width, height=info.height
                )
        return found


def _blob(upload: types_pb2.ImageUpload, result: encoder_pb2.ImageEmbedding) -> imagestore_pb2.BlobUpload:
    return imagestore_pb2.BlobUpload(
        image_id=upload.image_id,
        data=upload.data,
        media_type=result.media_type,
        width=result.width,
        height=result.height,
        attributes=upload.attributes,
    )
