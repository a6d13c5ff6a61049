"""Keeps vectors in agreement with the stored images, although other callers write and delete at the same time.

The image store gives every write of an image a revision. After each write or deletion of vectors, the writer asks the
image store for the current revisions. If a vector was made from another revision, the vector is made again from the
stored bytes, or deleted if there are none. Then the image store is asked again, until both agree. So the last operation
on a vector is always followed by a check that agreed. If an image is put after that check, its writer has not yet
written the vector, and will check it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf import struct_pb2

from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.encoding import batches, encode_for
from protos import imagestore_pb2, retriever_pb2, types_pb2
from services.common.errors import CollectionNotFound, ModelMismatch, WentuError
from services.common.fingerprint import Fingerprint
from services.common.wire_errors import from_item_error

# A re-embedding that begins or ends between two calls changes the models whose vectors must be written.
ATTEMPTS = 4
# Stands for an unknown revision. No image has it.
UNKNOWN = -1

Errors = dict[str, WentuError]


@dataclass
class Vectors:
    """Vectors of one model by image id. `precision` is that of newly encoded vectors, and empty if there are none."""

    embeddings: dict[str, types_pb2.Embedding] = field(default_factory=dict)
    precision: str = ""


# Existing vectors, by their model.
Made = dict[Fingerprint, Vectors]


@dataclass(frozen=True)
class StoredImage:
    """An image as the image store holds it. Its vector is made from this."""

    image_id: str
    data: bytes
    attributes: struct_pb2.Struct
    sha256: str
    revision: int


class Agreement:
    """Writes and deletes vectors of one creation of a collection."""

    def __init__(self, clients: Clients, settings: GatewaySettings, collection: str, creation_id: str) -> None:
        self._clients = clients
        self._settings = settings
        self._collection = collection
        self._creation_id = creation_id

    async def collection(self, fresh: bool = False) -> retriever_pb2.VectorCollection:
        """The collection with its current model. Raises CollectionNotFound if it was created again."""
        current = await self._clients.collections.get(self._collection, fresh)
        if current.creation_id != self._creation_id:
            raise CollectionNotFound(self._collection)
        return current

    async def _model(self, fresh: bool) -> Fingerprint:
        return Fingerprint.from_message((await self.collection(fresh)).model)

    async def write(self, images: Sequence[StoredImage], made: Made, model: Fingerprint | None = None) -> Errors:
        """Write the vectors of stored images into every generation, or only into that of `model`. Returns errors by id.

        Raises CollectionNotFound, ModelMismatch, UpstreamUnavailable.
        """
        wrote = {image.image_id: image.revision for image in images}
        errors = await self._write(images, made, model)
        return await self._agree(wrote) | errors

    async def remake(self, image_ids: Sequence[str], model: Fingerprint | None = None) -> Errors:
        """Make vectors of these ids again from the bytes that the image store holds now. Returns errors by id."""
        wrote, errors = await self._remake(image_ids, model)
        return await self._agree(wrote) | errors

    async def delete(self, image_ids: Sequence[str], *, rebuild_only: bool = False) -> Errors:
        """Delete the vectors of ids without bytes. Ids that have bytes again keep a vector."""
        await self.delete_first(image_ids, rebuild_only=rebuild_only)
        return await self._agree(dict.fromkeys(image_ids))

    async def _agree(self, wrote: Mapping[str, int | None]) -> Errors:
        """Compare with the image store, and correct vectors, until both agree. Returns errors by id.

        `wrote` has the revision that each id's vector was made from, or None if the vector was deleted.
        """
        errors: Errors = {}
        while wrote:
            blobs = {
                blob.info.image_id: blob
                for blob in await self._clients.imagestore.get_blobs(
                    self._collection, sorted(wrote), creation_id=self._creation_id
                )
            }
            gone = [image_id for image_id, revision in wrote.items() if revision is not None and image_id not in blobs]
            other = [blob.info for image_id, blob in blobs.items() if wrote[image_id] != blob.revision]
            again: dict[str, int | None] = dict.fromkeys(gone)
            if gone:
                await self.delete_first(gone)
            for batch in batches(other, lambda info: info.size_bytes, self._settings):
                remade, failed = await self._remake([info.image_id for info in batch], None)
                again |= remade
                errors |= failed
            wrote = again
        return errors

    async def _remake(
        self, image_ids: Sequence[str], model: Fingerprint | None
    ) -> tuple[dict[str, int | None], Errors]:
        """Make vectors from stored bytes. Returns the revisions that were used, and the errors, by id."""
        blobs = await self._clients.imagestore.get_blobs(
            self._collection, image_ids, creation_id=self._creation_id, data=True, attributes=True
        )
        images = await self._stored(blobs)
        errors = await self._write(images, {}, model) if images else {}
        wrote: dict[str, int | None] = dict.fromkeys(image_ids, UNKNOWN)
        wrote |= {image.image_id: image.revision for image in images}
        # An image that cannot be encoded is not tried again.
        return {image_id: revision for image_id, revision in wrote.items() if image_id not in errors}, errors

    async def _stored(self, blobs: Sequence[imagestore_pb2.Blob]) -> list[StoredImage]:
        """Fill in attributes that the image store does not know from the existing vectors."""
        unsaid = [blob.info.image_id for blob in blobs if not blob.HasField("attributes")]
        records: Iterable[retriever_pb2.VectorRecord] = ()
        if unsaid:
            records = (
                await self._clients.retriever.get_vectors(self._collection, unsaid, embeddings=False, strong=True)
            ).records
        known = {record.image_id: record for record in records}
        return [
            StoredImage(
                blob.info.image_id,
                blob.data,
                attributes_of(blob, known.get(blob.info.image_id)),
                blob.info.sha256,
                blob.revision,
            )
            for blob in blobs
        ]

    async def _write(self, images: Sequence[StoredImage], made: Made, model: Fingerprint | None) -> Errors:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._write_once(images, made, model or await self._model(fresh=attempt > 1))
            except (ModelMismatch, CollectionNotFound):
                if model is not None or attempt == ATTEMPTS:
                    raise

    async def _write_once(self, images: Sequence[StoredImage], made: Made, model: Fingerprint) -> Errors:
        """Write vectors of `model`, and then those of the model of a running re-embedding."""
        errors: Errors = {}
        written: set[Fingerprint] = set()
        while model not in written:
            errors |= await self._encode(model, images, made)
            images = [image for image in images if image.image_id not in errors]
            if not images:
                break
            answer = await self._clients.retriever.upsert_vectors(self._request(model, images, made[model]))
            await self._check(answer.creation_id, [image.image_id for image in images])
            written.add(model)
            if answer.HasField("rebuild_model"):
                model = Fingerprint.from_message(answer.rebuild_model)
        return errors

    async def _encode(self, model: Fingerprint, images: Sequence[StoredImage], made: Made) -> Errors:
        """Add missing vectors of `model` to `made`."""
        vectors = made.setdefault(model, Vectors())
        missing = {image.image_id: image.data for image in images if image.image_id not in vectors.embeddings}
        if not missing:
            return {}
        encoded = await encode_for(self._clients, self._settings, self._collection, model, missing)
        vectors.precision = encoded.precision
        vectors.embeddings |= {image_id: result.embedding for image_id, result in encoded.results.items()}
        return {image_id: from_item_error(error, f"image {image_id!r}") for image_id, error in encoded.failed.items()}

    def _request(
        self, model: Fingerprint, images: Sequence[StoredImage], vectors: Vectors
    ) -> retriever_pb2.UpsertVectorsRequest:
        records = [
            retriever_pb2.VectorRecord(
                image_id=image.image_id,
                embedding=vectors.embeddings[image.image_id],
                attributes=image.attributes,
                content_sha256=image.sha256,
            )
            for image in images
        ]
        return retriever_pb2.UpsertVectorsRequest(
            collection=self._collection,
            records=records,
            model=model.to_message(),
            creation_id=self._creation_id,
            precision=vectors.precision,
        )

    async def delete_first(self, image_ids: Sequence[str], *, rebuild_only: bool = False) -> None:
        """Delete vectors before their bytes are deleted. Call `delete` after that."""
        answer = await self._clients.retriever.delete_vectors(
            self._collection, image_ids, creation_id=self._creation_id, rebuild_only=rebuild_only
        )
        await self._check(answer.creation_id, image_ids)

    async def _check(self, creation_id: str, image_ids: Sequence[str]) -> None:
        """Raises CollectionNotFound if the operation reached another creation. Its vectors agree again by then."""
        if creation_id != self._creation_id:
            other = Agreement(self._clients, self._settings, self._collection, creation_id)
            await other._agree(dict.fromkeys(image_ids, UNKNOWN))
            raise CollectionNotFound(self._collection)


def attributes_of(blob: imagestore_pb2.Blob, record: retriever_pb2.VectorRecord | None) -> struct_pb2.Struct:
    """The attributes for an image's vector: those in the image store, or the vector's own if that has none."""
    if record is None or blob.HasField("attributes"):
        return blob.attributes
    return record.attributes
