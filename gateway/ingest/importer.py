"""Adds images: encode, then commit the bytes, then write the vector, then acknowledge.

With this order an interruption is harmless: no vector exists without bytes, and nothing acknowledged is lost. Encoding
comes first since it detects files that are not images, and those must leave nothing behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf import struct_pb2

from gateway.ingest.agreement import Agreement, StoredImage, Vectors
from gateway.ingest.unfinished import LookAfter, finished_or
from gateway.precision import PrecisionNotes
from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.encoding import EncodedImages, encode_for
from protos import encoder_pb2, imagestore_pb2, retriever_pb2, types_pb2
from protos import search_pb2 as pb
from services.common.attributes import check_attributes
from services.common.errors import (
    Code,
    CollectionNotFound,
    ImageExists,
    ImageTooLarge,
    ModelMismatch,
    NotImplementedYet,
    UnreadableImage,
    WentuError,
)
from services.common.fingerprint import Fingerprint, check_same_precision
from services.common.ids import check_image_id
from services.common.thread_pool import aside
from services.common.wire_errors import from_item_error

_KEEPING = frozenset({types_pb2.IF_EXISTS_SKIP, types_pb2.IF_EXISTS_FAIL})


@dataclass(frozen=True)
class Outcome:
    """The outcome of one image."""

    status: pb.AddStatus.ValueType
    info: types_pb2.ImageInfo | None = None
    error: WentuError | None = None
    notes: Sequence[pb.Note.ValueType] = ()


@dataclass(frozen=True)
class NewImage:
    """An image of a request. Its bytes are read once, since each read of the message's field copies them."""

    image_id: str
    data: bytes
    attributes: struct_pb2.Struct
    has_embedding: bool

    @classmethod
    def of(cls, upload: types_pb2.ImageUpload) -> NewImage:
        return cls(upload.image_id, upload.data, upload.attributes, upload.HasField("embedding"))


@dataclass(frozen=True)
class Embedded:
    """Vectors of the collection's `model`: `known` ones that existed already, and newly `made` ones."""

    collection: retriever_pb2.VectorCollection
    model: Fingerprint
    known: Mapping[str, encoder_pb2.ImageEmbedding]
    made: EncodedImages

    @property
    def results(self) -> dict[str, encoder_pb2.ImageEmbedding]:
        return {**self.known, **self.made.results}


def failed(error: WentuError) -> Outcome:
    return Outcome(pb.ADD_STATUS_FAILED, error=error)


class Importer:
    """Adds batches of images to one creation of a collection, and never to a later one."""

    def __init__(
        self,
        clients: Clients,
        settings: GatewaySettings,
        collection: str,
        creation_id: str,
        if_exists: types_pb2.IfExists.ValueType,
        notes: PrecisionNotes,
        look_after: LookAfter,
    ) -> None:
        self._clients = clients
        self._settings = settings
        self._collection = collection
        self._creation_id = creation_id
        self._if_exists = if_exists
        self._max_image_bytes = settings.max_image_bytes
        self._agreement = Agreement(clients, settings, collection, creation_id)
        self._notes = notes
        self._look_after = look_after

    async def add(self, uploads: Sequence[types_pb2.ImageUpload]) -> list[Outcome]:
        """Add a batch. Returns one outcome per image, in order, errors included. The ids must be distinct."""
        return await self._add([NewImage.of(upload) for upload in uploads])

    async def _add(self, images: Sequence[NewImage]) -> list[Outcome]:
        attributes_bytes = sum(image.attributes.ByteSize() for image in images)
        outcomes = await aside(attributes_bytes, self._refused, images)
        good = [place for place in range(len(images)) if place not in outcomes]
        try:
            outcomes |= zip(good, await self._add_good([images[place] for place in good]), strict=True)
        except WentuError as error:
            if error.code is Code.INVALID_ARGUMENT and len(good) > 1:  # one bad image must not affect the others
                for place in good:
                    outcomes |= {place: (await self._add([images[place]]))[0]}
            else:
                outcomes |= {place: failed(error) for place in good}
        return [outcomes[place] for place in range(len(images))]

    def _refused(self, images: Sequence[NewImage]) -> dict[int, Outcome]:
        """The outcomes of invalid images, by their index."""
        outcomes: dict[int, Outcome] = {}
        for place, image in enumerate(images):
            try:
                self._check(image)
            except WentuError as error:
                outcomes[place] = failed(error)
        return outcomes

    def _check(self, image: NewImage) -> None:
        check_image_id(image.image_id, "image.image_id")
        if not image.data:
            raise UnreadableImage("image.data", "holds no bytes")
        if len(image.data) > self._max_image_bytes:
            raise ImageTooLarge("image.data", f"has {len(image.data):,} bytes; the limit is {self._max_image_bytes:,}")
        check_attributes(image.attributes, "image.attributes")
        if image.has_embedding:
            raise NotImplementedYet("image.embedding")

    async def _add_good(self, images: Sequence[NewImage]) -> list[Outcome]:
        if not images:
            return []
        image_ids = [image.image_id for image in images]
        blobs = await self._clients.imagestore.get_blobs(self._collection, image_ids, creation_id=self._creation_id)
        stored = {blob.info.image_id: blob.info for blob in blobs}
        complete = await self._complete(stored) if self._if_exists in _KEEPING else set()
        wanted = [image for image in images if image.image_id not in complete]
        done = await self._written(wanted, stored) if wanted else {}
        return [done.get(image_id) or self._kept(image_id) for image_id in image_ids]

    async def _complete(self, stored: Mapping[str, types_pb2.ImageInfo]) -> set[str]:
        """The stored ids that are complete: their vectors exist and were made from these bytes."""
        if not stored:
            return set()
        vectors = await self._clients.retriever.get_vectors(
            self._collection, sorted(stored), embeddings=False, strong=True
        )
        if vectors.creation_id != self._creation_id:
            raise CollectionNotFound(self._collection)
        return {
            record.image_id
            for record in vectors.records
            if record.content_sha256 in ("", stored[record.image_id].sha256)
        }

    def _kept(self, image_id: str) -> Outcome:
        if self._if_exists == types_pb2.IF_EXISTS_FAIL:
            return failed(ImageExists(self._collection, image_id))
        return Outcome(pb.ADD_STATUS_SKIPPED)

    async def _written(
        self, images: Sequence[NewImage], stored: Mapping[str, types_pb2.ImageInfo]
    ) -> dict[str, Outcome]:
        """Encode images, commit their bytes, and write their vectors. Returns outcomes by id."""
        try:
            embedded = await self._embedded(images, stored)
        except (ModelMismatch, CollectionNotFound):  # the collection may have just been re-embedded or created again
            embedded = await self._embedded(images, stored, fresh=True)
        collection, made, results = embedded.collection, embedded.made, embedded.results
        if collection.strict_precision:  # before the bytes are committed
            with self._notes.counting("import", len(made.results)):
                check_same_precision(collection.collection, collection.precision, made.precision)
        outcomes = {image_id: failed(from_item_error(error, "image.data")) for image_id, error in made.failed.items()}
        good = [image for image in images if image.image_id in results]
        if not good:
            return outcomes
        with finished_or(self._look_after, self._collection, [image.image_id for image in good]):
            put = await self._clients.imagestore.put_blobs(
                self._collection,
                [_blob(image, results[image.image_id]) for image in good],
                creation_id=self._creation_id,
            )
            to_write = [
                StoredImage(image.image_id, image.data, image.attributes, info.sha256, revision)
                for image, info, revision in zip(good, put.infos, put.revisions, strict=True)
            ]
            embeddings = {image_id: result.embedding for image_id, result in results.items()}
            errors = await self._agreement.write(to_write, {embedded.model: Vectors(embeddings, made.precision)})
        for info in put.infos:
            if info.image_id in errors:
                outcomes[info.image_id] = failed(errors[info.image_id])
                continue
            status = pb.ADD_STATUS_REPLACED if info.image_id in stored else pb.ADD_STATUS_ADDED
            precision = made.precision if info.image_id in made.results else ""
            notes = self._notes.of(collection.precision, precision, "import")
            outcomes[info.image_id] = Outcome(status, info, notes=notes)
        return outcomes

    async def _embedded(
        self, images: Sequence[NewImage], stored: Mapping[str, types_pb2.ImageInfo], *, fresh: bool = False
    ) -> Embedded:
        """Vectors of the collection's current model. Images stored with the same bytes are not encoded again."""
        collection = await self._agreement.collection(fresh)
        model = Fingerprint.from_message(collection.model)
        known = await self._same(model, images, stored)
        missing = {image.image_id: image.data for image in images if image.image_id not in known}
        made = await encode_for(self._clients, self._settings, self._collection, model, missing)
        return Embedded(collection, model, known, made)

    async def _same(
        self, model: Fingerprint, images: Sequence[NewImage], stored: Mapping[str, types_pb2.ImageInfo]
    ) -> dict[str, encoder_pb2.ImageEmbedding]:
        """Existing vectors that this model made from the same bytes as the uploaded ones.

        A stale read is fine, since each record names the bytes that its vector was made from.
        """
        hashes = {
            image.image_id: hashlib.sha256(image.data).hexdigest() for image in images if image.image_id in stored
        }
        same = sorted(image_id for image_id, sha256 in hashes.items() if stored[image_id].sha256 == sha256)
        if not same:
            return {}
        known = await self._clients.retriever.get_vectors(self._collection, same, embeddings=True, strong=False)
        results = {}
        for record in known.records:
            made_from = (record.content_sha256, record.model_sha256)
            if made_from == (hashes[record.image_id], model.checkpoint_sha256):
                info = stored[record.image_id]
                results[record.image_id] = encoder_pb2.ImageEmbedding(
                    embedding=record.embedding, media_type=info.media_type, width=info.width, height=info.height
                )
        return results


def _blob(image: NewImage, result: encoder_pb2.ImageEmbedding) -> imagestore_pb2.BlobUpload:
    return imagestore_pb2.BlobUpload(
        image_id=image.image_id,
        data=image.data,
        media_type=result.media_type,
        width=result.width,
        height=result.height,
        attributes=image.attributes,
    )
