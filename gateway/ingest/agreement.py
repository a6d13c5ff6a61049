"""Vectors that agree with the images that they stand for, whoever else writes and deletes meanwhile.

The image store gives every write of an image a revision. Whoever writes or deletes vectors asks the image store
AFTERWARDS which revisions it holds. If that is not what a vector was made from, the vector is made again from what the
image store holds, or deleted if it holds nothing, and the image store is asked again, until both agree. So the last
operation on a vector is always followed by a look that agreed; and an image that is put after that look belongs to a
writer that has its own vector still to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf import struct_pb2

from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.encoding import batches, encode_patiently
from protos import imagestore_pb2, retriever_pb2, types_pb2
from services.common.errors import CollectionNotFound, ModelMismatch, WentuError
from services.common.fingerprint import Fingerprint
from services.common.wire_errors import from_item_error

# A re-embedding that begins, ends or is given up between two calls changes which models' vectors are to be written.
ATTEMPTS = 4
# The revision of an image of which nothing is known: none has it.
UNKNOWN = -1

Errors = dict[str, WentuError]


@dataclass
class Vectors:
    """Vectors of one model by image id, and the precision of those that were encoded just now; empty if none was."""

    embeddings: dict[str, types_pb2.Embedding] = field(default_factory=dict)
    precision: str = ""


# Vectors that are made already, by their model.
Made = dict[Fingerprint, Vectors]


@dataclass(frozen=True)
class StoredImage:
    """An image as the image store holds it: what a vector is made from."""

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
        """The collection and the model whose vectors serve. Raises CollectionNotFound if it was created again."""
        found = await self._clients.known_collection(self._collection, fresh)
        if found.creation_id != self._creation_id:
            raise CollectionNotFound(self._collection)
        return found

    async def _model(self, fresh: bool) -> Fingerprint:
        return Fingerprint.from_message((await self.collection(fresh)).model)

    async def write(self, images: Sequence[StoredImage], made: Made, model: Fingerprint | None = None) -> Errors:
        """Gives stored images their vectors in every generation, or in that of `model` alone; the errors by id.

        Raises CollectionNotFound, ModelMismatch, UpstreamUnavailable.
        """
        wrote = {image.image_id: image.revision for image in images}
        errors = await self._write(images, made, model)
        return await self._agree(wrote) | errors

    async def remake(self, image_ids: Sequence[str], model: Fingerprint | None = None) -> Errors:
        """As `write`, for what the image store holds of these ids now."""
        wrote, errors = await self._remake(image_ids, model)
        return await self._agree(wrote) | errors

    async def delete(self, image_ids: Sequence[str], *, rebuild_only: bool = False) -> Errors:
        """Deletes the vectors of ids that have no bytes; those that got bytes meanwhile keep a vector."""
        await self.delete_first(image_ids, rebuild_only=rebuild_only)
        return await self._agree(dict.fromkeys(image_ids))

    async def _agree(self, wrote: Mapping[str, int | None]) -> Errors:
        """Looks at what the image store holds, until the vectors are those of it.

        `wrote`: the revision that each id's vector was made from, None where it was deleted.
        """
        errors: Errors = {}
        while wrote:
            blobs = {
                blob.info.image_id: blob
                for blob in await self._clients.get_blobs(
                    self._collection, sorted(wrote), creation_id=self._creation_id
                )
            }
            gone = [each for each, revision in wrote.items() if revision is not None and each not in blobs]
            other = [blob.info for each, blob in blobs.items() if wrote[each] != blob.revision]
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
        """Makes vectors from stored bytes; from which revisions, and the errors."""
        blobs = await self._clients.get_blobs(
            self._collection, image_ids, creation_id=self._creation_id, data=True, attributes=True
        )
        images = await self._stored(blobs)
        errors = await self._write(images, {}, model) if images else {}
        wrote: dict[str, int | None] = dict.fromkeys(image_ids, UNKNOWN)
        wrote |= {image.image_id: image.revision for image in images}
        # What cannot be encoded would be tried for ever.
        return {each: revision for each, revision in wrote.items() if each not in errors}, errors

    async def _stored(self, blobs: Sequence[imagestore_pb2.Blob]) -> list[StoredImage]:
        """Images of which nobody said the attributes keep those of their vectors."""
        unsaid = [blob.info.image_id for blob in blobs if not blob.HasField("attributes")]
        records: Iterable[retriever_pb2.VectorRecord] = ()
        if unsaid:
            records = (await self._clients.get_vectors(self._collection, unsaid, embeddings=False, strong=True)).records
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
        """Vectors of `model`, and then of the model that the collection is being re-embedded with."""
        errors: Errors = {}
        written: set[Fingerprint] = set()
        while model not in written:
            errors |= await self._encode(model, images, made)
            images = [image for image in images if image.image_id not in errors]
            if not images:
                break
            answer = await self._clients.upsert_vectors(self._request(model, images, made[model]))
            await self._check(answer.creation_id, [image.image_id for image in images])
            written.add(model)
            if answer.HasField("rebuild_model"):
                model = Fingerprint.from_message(answer.rebuild_model)
        return errors

    async def _encode(self, model: Fingerprint, images: Sequence[StoredImage], made: Made) -> Errors:
        """Completes the vectors of `model` in `made`."""
        vectors = made.setdefault(model, Vectors())
        missing = [image for image in images if image.image_id not in vectors.embeddings]
        errors: Errors = {}
        for batch in batches(missing, lambda image: len(image.data), self._settings):
            encoded = await encode_patiently(self._clients, model, [image.data for image in batch])
            if not (made_by := Fingerprint.from_message(encoded.model)).fits(model):
                raise ModelMismatch(self._collection, str(model), str(made_by))
            vectors.precision = encoded.precision
            for image, result in zip(batch, encoded.results, strict=True):
                if result.WhichOneof("outcome") == "error":
                    errors[image.image_id] = from_item_error(result.error, f"image {image.image_id!r}")
                else:
                    vectors.embeddings[image.image_id] = result.embedding
        return errors

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
        """Deletes vectors whose bytes are deleted next, and `delete` comes after that."""
        answer = await self._clients.delete_vectors(
            self._collection, image_ids, creation_id=self._creation_id, rebuild_only=rebuild_only
        )
        await self._check(answer.creation_id, image_ids)

    async def _check(self, creation_id: str, image_ids: Sequence[str]) -> None:
        """Raises CollectionNotFound if the operation met another creation, whose vectors agree again by then."""
        if creation_id != self._creation_id:
            other = Agreement(self._clients, self._settings, self._collection, creation_id)
            await other._agree(dict.fromkeys(image_ids, UNKNOWN))
            raise CollectionNotFound(self._collection)


def attributes_of(blob: imagestore_pb2.Blob, record: retriever_pb2.VectorRecord | None) -> struct_pb2.Struct:
    """Those that an image's vector is to have: those beside its bytes, or if nobody said, those that it has."""
    if record is None or blob.HasField("attributes"):
        return blob.attributes
    return record.attributes
