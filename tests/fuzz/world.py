"""The data that the fuzz's messages name: collections made for it, their images, vectors and page tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import grpc

from protos import (
    admin_pb2,
    encoder_pb2,
    encoder_pb2_grpc,
    imagestore_pb2,
    imagestore_pb2_grpc,
    retriever_pb2,
    retriever_pb2_grpc,
    types_pb2,
)
from protos import search_pb2 as pb
from tests.fuzz.contract import PORT_OFFSETS
from tests.support.images import drawn, encoded, gallery, noise
from tests.support.system import CALL_SECONDS, System

# Only read. Its content must not change.
GUARDED = "fuzz_guarded"
# Written to.
SCRATCH, DIRECT, REBUILT = "fuzz_scratch", "fuzz_direct", "fuzz_rebuilt"
# Created and removed.
MADE = ("fuzz_made_0", "fuzz_made_1")
TEXT = "一个男孩"


@cache
def images() -> tuple[bytes, ...]:
    """Small and valid, in several formats."""
    return (noise(1, 32), encoded(drawn(40, 30), "JPEG"), encoded(drawn(16, 16), "WEBP"), encoded(drawn(9, 9), "GIF"))


@dataclass(frozen=True)
class World:
    """The names and values that valid messages need."""

    model: types_pb2.ModelFingerprint
    vector: types_pb2.Embedding
    guarded_ids: tuple[str, ...]
    scratch_ids: tuple[str, ...]
    image_token: str
    blob_token: str
    vector_token: str
    collection_token: str
    snapshot: tuple[admin_pb2.SnapshotChunk, ...]

    def texts(self, writes: bool) -> tuple[str, ...]:
        """Names and tokens that exist in this system.

        A method that writes never gets the guarded collection. A method that removes never gets a collection that
        others write to.
        """
        tokens = (self.image_token, self.blob_token, self.vector_token, self.collection_token)
        names = (MADE[0], "fuzz_missing", *(() if writes else (GUARDED, SCRATCH, DIRECT)))
        return (*names, self.guarded_ids[0], *(token for token in tokens if token))


def attributes(place: int) -> dict[str, Any]:
    return {"place": place, "标签": ["红", 1.5, None, {"deep": True}], "name": f"n{place}"}


def fill(system: System, collection: str, count: int) -> tuple[str, ...]:
    """Add images with attributes to a collection. Returns their ids."""
    requests = [pb.AddImagesRequest(options=pb.AddImagesOptions(collection=collection))]
    for place, each in enumerate(gallery()[:count]):
        upload = types_pb2.ImageUpload(image_id=f"image {place}", data=each.data)
        upload.attributes.update(attributes(place))
        requests.append(pb.AddImagesRequest(image=upload))
    answers = list(system.client.images.AddImages(iter(requests), timeout=CALL_SECONDS))
    assert all(answer.status == pb.ADD_STATUS_ADDED for answer in answers), answers
    return tuple(f"image {place}" for place in range(count))


@contextlib.contextmanager
def made(system: System) -> Iterator[World]:
    """The collections, filled; removed at the end."""
    try:
        for name in (GUARDED, SCRATCH, DIRECT, REBUILT):
            system.create(name)
        guarded, scratch = fill(system, GUARDED, 12), fill(system, SCRATCH, 6)
        fill(system, REBUILT, 2)
        yield _facts(system, guarded, scratch)
    finally:
        for name in _ours(system):
            with contextlib.suppress(grpc.RpcError):
                system.drop(name)


def _ours(system: System) -> list[str]:
    request = pb.ListCollectionsRequest(page_size=1000)
    listed = system.client.collections.ListCollections(request, timeout=CALL_SECONDS).collections
    return [each.id for each in listed if each.id.startswith("fuzz")]


def _facts(system: System, guarded: tuple[str, ...], scratch: tuple[str, ...]) -> World:
    def address(process: str) -> str:
        return f"127.0.0.1:{system.port + PORT_OFFSETS[process]}"

    strong = types_pb2.CONSISTENCY_STRONG
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(address(each))) for each in list(PORT_OFFSETS)[1:]]
        encoder = encoder_pb2_grpc.EncoderServiceStub(channels[0])
        retriever = retriever_pb2_grpc.RetrieverServiceStub(channels[1])
        imagestore = imagestore_pb2_grpc.ImageStoreServiceStub(channels[2])
        texts = encoder.EncodeTexts(encoder_pb2.EncodeTextsRequest(texts=[TEXT]))
        blobs = imagestore.ListBlobs(imagestore_pb2.ListBlobsRequest(collection=GUARDED, page_size=2))
        vectors = retriever.ListVectors(
            retriever_pb2.ListVectorsRequest(collection=GUARDED, page_size=2, consistency=strong)
        )
    listed = system.client.images.ListImages(pb.ListImagesRequest(collection=GUARDED, page_size=2))
    collections = system.client.collections.ListCollections(pb.ListCollectionsRequest(page_size=1))
    exported = system.client.admin.ExportSnapshot(admin_pb2.ExportSnapshotRequest(collection=REBUILT))
    return World(
        model=texts.model,
        vector=texts.results[0].embedding,
        guarded_ids=guarded,
        scratch_ids=scratch,
        image_token=listed.next_page_token,
        blob_token=blobs.next_page_token,
        vector_token=vectors.next_page_token,
        collection_token=collections.next_page_token,
        snapshot=tuple(each.part for each in exported),
    )
