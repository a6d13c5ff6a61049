"""Tests make the leftovers of interruptions by hand, and reconcile repairs them, on both pairs of stores."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from protos import (
    admin_pb2,
    errors_pb2,
    imagestore_pb2,
    imagestore_pb2_grpc,
    retriever_pb2,
    retriever_pb2_grpc,
    types_pb2,
)
from protos import search_pb2 as pb
from tests.support.images import gallery, noise
from tests.support.system import CALL_SECONDS, System, refusal

ORPHANED, MISSING, STALE = (
    admin_pb2.FINDING_KIND_ORPHANED_BYTES,
    admin_pb2.FINDING_KIND_MISSING_BYTES,
    admin_pb2.FINDING_KIND_STALE_VECTOR,
)


def put(system: System, collection: str, images: Mapping[str, bytes], **attributes: Any) -> None:
    """Put an image into the image store only, as an interrupted import does."""
    blobs = []
    for image_id, data in images.items():
        blob = imagestore_pb2.BlobUpload(image_id=image_id, data=data, media_type="image/png", width=64, height=64)
        blob.attributes.update(attributes)
        blobs.append(blob)
    with grpc.insecure_channel(f"127.0.0.1:{system.port + 2}") as channel:
        known = retriever_pb2_grpc.RetrieverServiceStub(channel).GetVectorCollection(
            retriever_pb2.GetVectorCollectionRequest(collection=collection), timeout=CALL_SECONDS
        )
    request = imagestore_pb2.PutBlobsRequest(
        collection=collection, creation_id=known.collection.creation_id, blobs=blobs
    )
    with grpc.insecure_channel(f"127.0.0.1:{system.port + 3}") as channel:
        imagestore_pb2_grpc.ImageStoreServiceStub(channel).PutBlobs(request, timeout=CALL_SECONDS)


def lose(system: System, collection: str, image_id: str) -> None:
    """Delete an image from the image store only."""
    with grpc.insecure_channel(f"127.0.0.1:{system.port + 3}") as channel:
        stub = imagestore_pb2_grpc.ImageStoreServiceStub(channel)
        request = imagestore_pb2.DeleteBlobsRequest(collection=collection, image_ids=[image_id])
        stub.DeleteBlobs(request, timeout=CALL_SECONDS)


def reconcile(system: System, collection: str, **options: bool) -> dict[str, admin_pb2.ReconcileResponse]:
    request = admin_pb2.ReconcileRequest(collection=collection, **options)
    answers = list(system.client.admin.Reconcile(request, timeout=CALL_SECONDS))
    assert not answers[-1].image_id
    return {answer.image_id: answer for answer in answers if answer.image_id}


def details(system: System, collection: str, *image_ids: str) -> list[pb.ImageDetails]:
    request = pb.GetImageDetailsRequest(collection=collection, image_ids=image_ids, include_embeddings=True)
    return list(system.client.images.GetImageDetails(request, timeout=CALL_SECONDS).images)


@pytest.fixture
def damaged(system: System, collection: str) -> str:
    """A collection with one finding of each kind that reconcile knows."""
    images = {each.image_id: each.data for each in gallery()[:4]}
    system.add(collection, {"fine": noise(1), "lost": noise(2), "replaced": noise(3)} | images)
    lose(system, collection, "lost")
    put(system, collection, {"replaced": noise(4), "cut off": noise(5)})
    return collection


def test_findings_are_reported_and_repaired(system: System, damaged: str) -> None:
    kinds = {"cut off": ORPHANED, "lost": MISSING, "replaced": STALE}
    found = reconcile(system, damaged, dry_run=True)
    assert {image_id: answer.kind for image_id, answer in found.items()} == kinds
    assert not any(answer.repaired for answer in found.values())
    found = reconcile(system, damaged)
    assert {image_id: answer.kind for image_id, answer in found.items()} == kinds
    assert all(answer.repaired for answer in found.values())
    assert reconcile(system, damaged, dry_run=True) == {}
    system.add(damaged, {"five": noise(5), "four": noise(4)})
    made = {
        each.image.image_id: each for each in details(system, damaged, "cut off", "replaced", "lost", "five", "four")
    }
    assert sorted(made) == ["cut off", "five", "four", "replaced"]
    for repaired, same in (("cut off", "five"), ("replaced", "four")):
        assert made[repaired].embedding.values == pytest.approx(list(made[same].embedding.values), abs=1e-3)


def test_what_the_vector_store_lost_comes_back_with_its_attributes(system: System, collection: str) -> None:
    everything = {"标签": ["红", 1.5, None, {"deep": True}], "null": None, "a[%]": "x", "year": 2026, "many": 1e300}
    for image_id, attributes in (("all", everything), ("one", {"year": 1}), ("none", {})):
        upload = types_pb2.ImageUpload(image_id=image_id, data=noise(len(image_id)))
        upload.attributes.update(attributes)
        system.client.images.AddImage(pb.AddImageRequest(collection=collection, image=upload), timeout=CALL_SECONDS)
    before = details(system, collection, "all", "one", "none")
    with grpc.insecure_channel(f"127.0.0.1:{system.port + 2}") as channel:
        request = retriever_pb2.DeleteVectorsRequest(collection=collection, image_ids=["all", "none"])
        retriever_pb2_grpc.RetrieverServiceStub(channel).DeleteVectors(request, timeout=CALL_SECONDS)
    assert len(details(system, collection, "all", "one", "none")) == 1
    put(system, collection, {"one": noise(3)}, year=2)
    found = reconcile(system, collection)
    assert {each.image_id: each.kind for each in found.values()} == {"all": ORPHANED, "none": ORPHANED, "one": STALE}
    after = details(system, collection, "all", "one", "none")
    assert [each.attributes for each in after[::2]] == [each.attributes for each in before[::2]]
    assert dict(after[1].attributes) == {"year": 2}
    assert reconcile(system, collection, dry_run=True) == {}


def test_bytes_that_may_still_get_their_vector_are_not_removed(system: System, damaged: str) -> None:
    found = reconcile(system, damaged, remove_orphans=True)
    assert (found["cut off"].repaired, found["cut off"].error.reason) == (
        False,
        errors_pb2.ERROR_REASON_WRITE_UNDER_WAY,
    )
    assert system.read(damaged, "cut off") == noise(5)
    assert found["lost"].repaired
    assert found["replaced"].repaired


def test_a_hit_without_bytes_is_dropped_and_looked_after(system: System, collection: str) -> None:
    system.add(collection, {"there": noise(1), "lost": noise(2)})
    lose(system, collection, "lost")
    found = system.search(collection, "一只猫", consistency=types_pb2.CONSISTENCY_STRONG)
    assert ([hit.image_id for hit in found.hits], found.dropped_hits) == (["there"], 1)
    deadline = time.monotonic() + 20
    while found.dropped_hits:
        assert time.monotonic() < deadline, "nobody looked after it"
        time.sleep(0.5)
        found = system.search(collection, "一只猫", consistency=types_pb2.CONSISTENCY_STRONG)
    assert system.count(collection) == 1


def test_the_command_line_reconciles(system: System, damaged: str) -> None:
    printed = system.cli("reconcile", damaged, "--dry-run", code=1)
    assert "lost: a vector without bytes: not repaired" in printed
    assert "8 compared, 0 repaired, 3 left" in printed
    assert "8 compared, 3 repaired, 0 left" in system.cli("reconcile", damaged)
    assert "7 compared, 0 repaired, 0 left" in system.cli("reconcile", damaged)


def encodings(system: System) -> int:
    return (system.data / "logs" / "encoder.log").read_text().count("EncoderService/EncodeImages")


def test_the_same_bytes_again_are_not_encoded_again(system: System, collection: str) -> None:
    images = {f"{number}": noise(number) for number in range(5)}
    system.add(collection, images)
    deadline = time.monotonic() + 10
    before = details(system, collection, *images)
    count = encodings(system)
    for _ in range(2):
        answers = system.add(collection, images)
        assert {answer.status for answer in answers.values()} == {pb.ADD_STATUS_REPLACED}
    while encodings(system) != count:  # a bounded read sees the first write after a moment
        assert time.monotonic() < deadline
        time.sleep(1)
        count = encodings(system)
        system.add(collection, images)
    assert details(system, collection, *images) == before
    system.add(collection, images | {"0": noise(9)})
    assert encodings(system) == count + 1
    [changed] = details(system, collection, "0")
    assert changed.image.sha256 == hashlib.sha256(noise(9)).hexdigest()
    assert changed.embedding != before[0].embedding


def test_images_are_listed_and_deleted_by_a_filter(system: System, collection: str) -> None:
    for number in range(6):
        upload = types_pb2.ImageUpload(image_id=f"{number}", data=noise(number))
        upload.attributes.update({"year": 2020 + number})
        system.client.images.AddImage(pb.AddImageRequest(collection=collection, image=upload), timeout=CALL_SECONDS)
    late = types_pb2.Filter(range=types_pb2.RangeCondition(attribute="year", gte=types_pb2.FilterValue(int_value=2023)))
    found = system.search(collection, "一只猫", filter=late, consistency=types_pb2.CONSISTENCY_STRONG)
    assert sorted(hit.image_id for hit in found.hits) == ["3", "4", "5"]
    request = pb.DeleteImagesRequest(collection=collection, filter=late)
    assert system.client.images.DeleteImages(request, timeout=CALL_SECONDS).deleted_count == 3
    assert system.client.images.DeleteImages(request, timeout=CALL_SECONDS).deleted_count == 0
    assert [each.image.image_id for each in details(system, collection, *map(str, range(6)))] == ["0", "1", "2"]
    with pytest.raises(grpc.RpcError):
        system.read(collection, "4")


def test_a_snapshot_is_refused_where_most_vectors_are_lost(system: System, collection: str) -> None:
    put(system, collection, {f"{number:03}": noise(number) for number in range(120)})
    export = admin_pb2.ExportSnapshotRequest(collection=collection)
    with pytest.raises(grpc.RpcError) as caught:
        list(system.client.admin.ExportSnapshot(export, timeout=CALL_SECONDS))
    refused = refusal(caught.value)
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert "120 of 120 images have no vector: reconcile the collection" in refused.message
    assert len(reconcile(system, collection)) == 120
    assert list(system.client.admin.ExportSnapshot(export, timeout=CALL_SECONDS))
