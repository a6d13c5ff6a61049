"""The three services in memory, with the semantics of the real ones, behind the gateway's own clients."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import struct_pb2

from gateway.ingest.unfinished import LookAfter
from gateway.upstreams.clients import Clients
from gateway.upstreams.imagestore import ImageStoreClient
from gateway.upstreams.known_collections import KnownCollections
from gateway.upstreams.retriever import RetrieverClient
from protos import encoder_pb2, imagestore_pb2, retriever_pb2, types_pb2
from services.common.errors import CollectionExists, CollectionNotFound, InvalidField, ModelMismatch
from tests.unit.interleaving import Step

OLD, NEW = (
    types_pb2.ModelFingerprint(name=name, dim=2, checkpoint_sha256=name * 64, preprocessing_version=1) for name in "ab"
)


def embedding(model: types_pb2.ModelFingerprint, data: bytes) -> list[float]:
    """A function of the model and the bytes."""
    return [float(ord(model.name)), float(int(hashlib.sha256(data).hexdigest()[:6], 16))]


@dataclass
class Row:
    """An image in the image store."""

    data: bytes
    attributes: struct_pb2.Struct
    revision: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class Generation:
    model: types_pb2.ModelFingerprint
    vectors: dict[str, retriever_pb2.VectorRecord] = field(default_factory=dict)


@dataclass
class Collection:
    """A collection in the retriever."""

    creation_id: str
    current: Generation
    rebuild: Generation | None = None


@dataclass
class World:
    """What the services hold. `encodes`: the model of the encoder for whatever is new."""

    rng: random.Random
    collections: dict[str, Collection] = field(default_factory=dict)
    images: dict[str, dict[str, Row]] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    encodes: types_pb2.ModelFingerprint = field(default_factory=lambda: OLD)
    made: int = 0

    def create(self, name: str) -> Collection:
        if name in self.collections:
            raise CollectionExists(name)
        self.made += 1
        self.collections[name] = Collection(f"C{self.made:032x}", Generation(OLD))
        return self.collections[name]

    def collection(self, name: str) -> Collection:
        if name not in self.collections:
            raise CollectionNotFound(name)
        return self.collections[name]

    def meant(self, name: str, creation_id: str) -> Collection:
        found = self.collection(name)
        if creation_id not in ("", found.creation_id):
            raise CollectionNotFound(name)
        return found


class FakeEncoder:
    def __init__(self, model: types_pb2.ModelFingerprint) -> None:
        self._model = model

    async def get_model(self) -> encoder_pb2.GetModelResponse:
        await Step()
        return encoder_pb2.GetModelResponse(model=self._model)

    async def encode_images(self, images: Sequence[bytes]) -> encoder_pb2.EncodeImagesResponse:
        await Step()
        results = [
            encoder_pb2.ImageEmbedding(embedding=types_pb2.Embedding(values=embedding(self._model, data)))
            for data in images
        ]
        return encoder_pb2.EncodeImagesResponse(model=self._model, results=results)


class FakeEncoders:
    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def first(self) -> FakeEncoder:
        return FakeEncoder(self.world.encodes)

    async def of(self, model: Any) -> FakeEncoder:
        await Step()
        return FakeEncoder(model.to_message())


class FakeRetriever(RetrieverClient):
    """Others may go on before each call takes effect, and before its answer arrives."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def get_collection(
        self, collection: str, count: bool = False, fresh: bool = False
    ) -> retriever_pb2.VectorCollection:
        await Step()
        message = _message(collection, self.world.collection(collection))
        await Step()
        return message

    async def create_vectors(
        self, request: retriever_pb2.CreateVectorCollectionRequest
    ) -> retriever_pb2.VectorCollection:
        await Step()
        message = _message(request.collection, self.world.create(request.collection))
        await Step()
        return message

    async def drop_vectors(self, collection: str) -> str:
        await Step()
        found = self.world.collections.pop(collection, None)
        await Step()
        return found.creation_id if found else ""

    async def upsert_vectors(self, request: retriever_pb2.UpsertVectorsRequest) -> retriever_pb2.UpsertVectorsResponse:
        await Step()
        found = self.world.meant(request.collection, request.creation_id)
        generations = [each for each in (found.current, found.rebuild) if each and each.model == request.model]
        if not generations:
            raise ModelMismatch(request.collection, found.current.model.name, request.model.name)
        for record in request.records:
            copy = retriever_pb2.VectorRecord()
            copy.CopyFrom(record)
            copy.model_sha256 = request.model.checkpoint_sha256
            generations[0].vectors[record.image_id] = copy
        answer = retriever_pb2.UpsertVectorsResponse(
            rebuild_model=found.rebuild.model if found.rebuild else None, creation_id=found.creation_id
        )
        await Step()
        return answer

    async def delete_vectors(
        self, collection: str, image_ids: Sequence[str], *, creation_id: str, rebuild_only: bool = False
    ) -> retriever_pb2.DeleteVectorsResponse:
        await Step()
        found = self.world.meant(collection, creation_id)
        for generation in (found.rebuild,) if rebuild_only else (found.current, found.rebuild):
            for image_id in image_ids:
                if generation is not None:
                    generation.vectors.pop(image_id, None)
        answer = retriever_pb2.DeleteVectorsResponse(creation_id=found.creation_id)
        await Step()
        return answer

    async def get_vectors(
        self, collection: str, image_ids: Sequence[str], *, embeddings: bool, strong: bool, rebuild: bool = False
    ) -> retriever_pb2.GetVectorsResponse:
        await Step()
        found, vectors = self._vectors(collection, rebuild)
        records = [vectors[image_id] for image_id in image_ids if image_id in vectors]
        answer = retriever_pb2.GetVectorsResponse(records=records, creation_id=found.creation_id)
        await Step()
        return answer

    async def list_vectors(self, request: retriever_pb2.ListVectorsRequest) -> retriever_pb2.ListVectorsResponse:
        await Step()
        found, vectors = self._vectors(request.collection, request.rebuild)
        records = [vectors[image_id] for image_id in sorted(vectors)]
        answer = retriever_pb2.ListVectorsResponse(records=records, creation_id=found.creation_id)
        await Step()
        return answer

    async def begin_rebuild(self, request: retriever_pb2.BeginRebuildRequest) -> retriever_pb2.VectorCollection:
        await Step()
        found, model = self.world.collection(request.collection), request.model
        if found.current.model != model and (found.rebuild is None or found.rebuild.model != model):
            found.rebuild = Generation(model)
        message = _message(request.collection, found)
        await Step()
        return message

    async def commit_rebuild(self, collection: str) -> retriever_pb2.VectorCollection:
        await Step()
        found = self.world.collection(collection)
        if found.rebuild is not None:
            found.current, found.rebuild = found.rebuild, None
        message = _message(collection, found)
        await Step()
        return message

    def _vectors(self, name: str, rebuild: bool) -> tuple[Collection, dict[str, retriever_pb2.VectorRecord]]:
        found = self.world.collection(name)
        if not rebuild:
            return found, found.current.vectors
        if found.rebuild is None:
            raise InvalidField("rebuild", f"{name} is not being re-embedded")
        return found, found.rebuild.vectors


class FakeImageStore(ImageStoreClient):
    """Others may go on before each call takes effect, and before its answer arrives."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def put_blobs(
        self, collection: str, blobs: Sequence[imagestore_pb2.BlobUpload], *, creation_id: str
    ) -> imagestore_pb2.PutBlobsResponse:
        await Step()
        if creation_id in self.world.dropped:
            raise CollectionNotFound(collection)
        rows = self.world.images.setdefault(creation_id, {})
        answer = imagestore_pb2.PutBlobsResponse()
        for blob in blobs:
            row = rows[blob.image_id] = Row(blob.data, blob.attributes, self.world.rng.getrandbits(62))
            answer.infos.add(image_id=blob.image_id, sha256=row.sha256, size_bytes=len(row.data))
            answer.revisions.append(row.revision)
        await Step()
        return answer

    async def get_blobs(
        self, collection: str, image_ids: Sequence[str], *, creation_id: str, data: bool = False, **_: Any
    ) -> Sequence[imagestore_pb2.Blob]:
        await Step()
        rows = self.world.images.get(creation_id, {})
        blobs = [_blob(image_id, rows[image_id], data) for image_id in image_ids if image_id in rows]
        await Step()
        return blobs

    async def list_blobs(
        self, collection: str, size: int, token: str, *, creation_id: str
    ) -> imagestore_pb2.ListBlobsResponse:
        await Step()
        rows = self.world.images.get(creation_id, {})
        answer = imagestore_pb2.ListBlobsResponse(blobs=[_blob(each, rows[each], False) for each in sorted(rows)])
        await Step()
        return answer

    async def delete_blobs(
        self, collection: str, image_ids: Sequence[str], *, creation_id: str, revisions: Sequence[int] = ()
    ) -> Sequence[str]:
        await Step()
        rows = self.world.images.get(creation_id, {})
        wanted = dict(zip(image_ids, revisions, strict=True)) if revisions else {}
        gone = [
            each for each in image_ids if each in rows and wanted.get(each, rows[each].revision) == rows[each].revision
        ]
        for image_id in gone:
            del rows[image_id]
        await Step()
        return gone

    async def count_blobs(
        self, collection: str, *, creation_id: str, images_only: bool = False
    ) -> imagestore_pb2.CountBlobsResponse:
        await Step()
        return imagestore_pb2.CountBlobsResponse(count=len(self.world.images.get(creation_id, {})))

    async def list_creations(self, collection: str) -> Sequence[str]:
        await Step()
        live = [each for each, rows in self.world.images.items() if rows or each not in self.world.dropped]
        await Step()
        return live

    async def drop_blobs(self, collection: str, *, creation_id: str) -> int:
        await Step()
        self.world.dropped.add(creation_id)
        rows = self.world.images.setdefault(creation_id, {})
        removed = 0
        while rows:  # some a commit
            await Step()
            rows.popitem()
            removed += 1
        await Step()
        return removed


class FakeClients(Clients):
    """One gateway's clients. `look_after`: what its writers tell of vectors that they did not finish."""

    def __init__(self, world: World) -> None:
        retriever = FakeRetriever(world)
        encoders: Any = FakeEncoders(world)
        super().__init__(encoders, retriever, FakeImageStore(world), KnownCollections(retriever))
        self.world = world
        self.look_after: LookAfter = lambda collection, image_ids: None


def _message(name: str, found: Collection) -> retriever_pb2.VectorCollection:
    return retriever_pb2.VectorCollection(
        collection=name,
        creation_id=found.creation_id,
        model=found.current.model,
        rebuild_model=found.rebuild.model if found.rebuild else None,
    )


def _blob(image_id: str, row: Row, data: bool) -> imagestore_pb2.Blob:
    info = types_pb2.ImageInfo(image_id=image_id, sha256=row.sha256, size_bytes=len(row.data))
    return imagestore_pb2.Blob(
        info=info, data=row.data if data else b"", attributes=row.attributes, revision=row.revision
    )
