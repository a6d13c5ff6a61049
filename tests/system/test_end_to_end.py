"""The product from end to end, on both pairs of stores."""

from __future__ import annotations

import hashlib
import io
import time

import grpc
import pytest
from PIL import Image

from protos import admin_pb2, types_pb2
from protos import search_pb2 as pb
from tests.support.images import gallery, noise
from tests.support.system import CALL_SECONDS, System, refusal

SAMPLE = {image.image_id: image.data for image in gallery()[::14]}  # 99 images


def test_import_search_read_delete(system: System, collection: str) -> None:
    outcomes = system.add(collection, SAMPLE)
    assert {outcome.status for outcome in outcomes.values()} == {pb.ADD_STATUS_ADDED}
    assert sorted(outcome.index for outcome in outcomes.values()) == list(range(len(SAMPLE)))
    assert system.count(collection) == len(SAMPLE)

    found = system.search(collection, "猫", top_k=20, consistency=types_pb2.CONSISTENCY_STRONG)
    assert len(found.hits) == 20
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)
    for hit in found.hits:
        assert hit.distance == pytest.approx(2 - 2 * hit.score, abs=1e-5)
        assert hit.image.sha256 == hashlib.sha256(SAMPLE[hit.image_id]).hexdigest()
        assert hit.image.media_type == "image/webp"
        assert hit.image.size_bytes == len(SAMPLE[hit.image_id])

    first = found.hits[0].image_id
    assert system.read(collection, first) == SAMPLE[first]
    thumbnail = system.client.read_image(collection, first, types_pb2.RENDITION_THUMBNAIL)
    assert max(Image.open(io.BytesIO(thumbnail)).size) <= 256

    request = pb.DeleteImagesRequest(collection=collection, ids=pb.ImageIdList(image_ids=[first, "never there"]))
    deleted = system.client.images.DeleteImages(request, timeout=CALL_SECONDS)
    assert deleted.deleted_count == 1
    assert [outcome.deleted for outcome in deleted.outcomes] == [True, False]
    assert first not in dict(system.search_strong(collection, "猫", top_k=100))
    with pytest.raises(grpc.RpcError) as caught:
        system.read(collection, first)
    assert refusal(caught.value).reason == "IMAGE_NOT_FOUND"
    assert system.count(collection) == len(SAMPLE) - 1


def test_repeating_an_import_changes_nothing(system: System, collection: str) -> None:
    system.add(collection, SAMPLE)
    before = system.search_strong(collection, "汽车", top_k=99)
    again = system.add(collection, SAMPLE)
    assert {outcome.status for outcome in again.values()} == {pb.ADD_STATUS_REPLACED}
    skipped = system.add(collection, SAMPLE, types_pb2.IF_EXISTS_SKIP)
    assert {outcome.status for outcome in skipped.values()} == {pb.ADD_STATUS_SKIPPED}
    failed = system.add(collection, SAMPLE, types_pb2.IF_EXISTS_FAIL)
    assert {outcome.error.code for outcome in failed.values()} == {grpc.StatusCode.ALREADY_EXISTS.value[0]}
    assert system.search_strong(collection, "汽车", top_k=99) == before
    assert system.count(collection) == len(SAMPLE)


def test_the_last_of_several_images_with_one_id_is_kept(system: System, collection: str) -> None:
    versions = [noise(seed) for seed in range(8)]

    def requests() -> list[pb.AddImagesRequest]:
        options = pb.AddImagesRequest(options=pb.AddImagesOptions(collection=collection))
        uploads = [types_pb2.ImageUpload(image_id="one", data=data) for data in versions]
        return [options, *(pb.AddImagesRequest(image=upload) for upload in uploads)]

    outcomes = list(system.client.images.AddImages(iter(requests()), timeout=CALL_SECONDS))
    assert [outcome.index for outcome in outcomes] == list(range(8))
    assert system.read(collection, "one") == versions[-1]
    assert system.count(collection) == 1


def test_the_same_bytes_are_stored_once(system: System, collection: str) -> None:
    data = noise(1)
    system.add(collection, {"a": data, "b": data})
    request = pb.GetCollectionRequest(collection=collection)
    found = system.client.collections.GetCollection(request, timeout=CALL_SECONDS).collection
    assert (found.image_count, found.image_bytes) == (2, len(data))
    ids = pb.ImageIdList(image_ids=["a"])
    system.client.images.DeleteImages(pb.DeleteImagesRequest(collection=collection, ids=ids), timeout=CALL_SECONDS)
    assert system.read(collection, "b") == data


def test_equal_scores_are_ordered_by_id(system: System, collection: str) -> None:
    data = noise(2)
    ids = [f"{number:02}" for number in range(30)]
    system.add(collection, dict.fromkeys(reversed(ids), data) | {"other": noise(3)})
    found = dict(system.search_strong(collection, "任何东西", top_k=31))
    equal = [image_id for image_id in found if image_id != "other"]
    assert equal == ids
    top = [image_id for image_id, _ in system.search_strong(collection, "任何东西", top_k=7)]
    assert top == list(found)[:7], "the cut through a tie is decided by id too"


def test_attributes_come_back(system: System, collection: str) -> None:
    upload = types_pb2.ImageUpload(image_id="图/片 '1'", data=noise(4))
    upload.attributes.update({"城市": "北京", "year": 2024, "tags": ["a", "b"], "deep": {"ok": True, "none": None}})
    added = system.client.images.AddImage(pb.AddImageRequest(collection=collection, image=upload), timeout=CALL_SECONDS)
    assert added.status == pb.ADD_STATUS_ADDED
    [hit] = system.search(collection, "什么", consistency=types_pb2.CONSISTENCY_STRONG).hits
    assert hit.attributes == upload.attributes
    request = pb.GetImageDetailsRequest(collection=collection, image_ids=["nope", "图/片 '1'"], include_embeddings=True)
    [details] = system.client.images.GetImageDetails(request, timeout=CALL_SECONDS).images
    assert details.attributes == upload.attributes
    assert sum(value * value for value in details.embedding.values) == pytest.approx(1, abs=1e-5)


def test_pages_of_images_hold_each_once(system: System, collection: str) -> None:
    ids = ["z", "a'b", 'a"b', "a\\b", "中文", "a/b", "😀", "A", "a b", "a%b", "a_b"]
    system.add(collection, {image_id: noise(place) for place, image_id in enumerate(ids)})
    seen: list[str] = []
    token = ""
    deadline = time.monotonic() + 30
    while len(seen) < len(ids) and time.monotonic() < deadline:  # Milvus shows writes late
        seen, token = [], ""
        while True:
            request = pb.ListImagesRequest(collection=collection, page_size=3, page_token=token)
            page = system.client.images.ListImages(request, timeout=CALL_SECONDS)
            seen += [image.image.image_id for image in page.images]
            token = page.next_page_token
            if not token:
                break
    assert seen == sorted(ids, key=str.encode)


def test_collections_are_listed_in_pages(system: System) -> None:
    names = [f"list{letter}" for letter in "cab"]
    for name in names:
        system.create(name, description=f"说明 {name}")
    found: list[pb.Collection] = []
    token = ""
    while True:
        request = pb.ListCollectionsRequest(page_size=2, page_token=token)
        page = system.client.collections.ListCollections(request, timeout=CALL_SECONDS)
        assert len(page.collections) <= 2
        found += page.collections
        token = page.next_page_token
        if not token:
            break
    ours = [each for each in found if each.id in names]
    assert [each.id for each in ours] == sorted(names)
    assert ours[0].description == "说明 lista"
    assert ours[0].model.name == "demo"
    for name in names:
        system.drop(name)


def test_a_collection_of_another_model_refuses(system: System) -> None:
    own = system.client.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_SECONDS).services[1].model
    other = types_pb2.ModelFingerprint()
    other.CopyFrom(own)
    other.checkpoint_sha256 = "0" * 64
    system.create("othermodel", model=other)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            system.search("othermodel", "猫")
        refused = refusal(caught.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH")
        assert "000000000000" in refused.metadata["collection_model"]
        assert own.checkpoint_sha256[:12] in refused.metadata["request_model"]
        outcome = system.add("othermodel", {"a": noise(1)})["a"]
        assert outcome.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        with pytest.raises(grpc.RpcError) as caught:
            system.read("othermodel", "a")
        assert refusal(caught.value).reason == "IMAGE_NOT_FOUND", "nothing is left behind"
    finally:
        system.drop("othermodel")


def test_texts_are_scored_against_a_image(system: System, collection: str) -> None:
    image = next(image for image in gallery() if image.attributes["captions"] == ["西瓜"])
    texts = ["西瓜", "笑脸", "汽车"]
    by_bytes = system.client.search.ScoreTexts(pb.ScoreTextsRequest(image=image.data, texts=texts), timeout=30)
    assert sum(result.probability for result in by_bytes.results) == pytest.approx(1, abs=1e-5)
    assert max(by_bytes.results, key=lambda result: result.score) == by_bytes.results[0]
    system.add(collection, {"melon": image.data})
    stored = pb.StoredImage(collection=collection, image_id="melon")
    by_id = system.client.search.ScoreTexts(pb.ScoreTextsRequest(stored=stored, texts=texts), timeout=30)
    assert [each.score for each in by_id.results] == pytest.approx([each.score for each in by_bytes.results], abs=1e-3)
    mistakes = (
        ("image", pb.ScoreTextsRequest(texts=texts)),
        ("image", pb.ScoreTextsRequest(image=b"no image", texts=texts)),
        ("texts", pb.ScoreTextsRequest(image=image.data)),
        ("texts[1]", pb.ScoreTextsRequest(image=image.data, texts=["猫", " "])),
        ("stored.image_id", pb.ScoreTextsRequest(stored=pb.StoredImage(collection=collection), texts=texts)),
    )
    for field, request in mistakes:
        with pytest.raises(grpc.RpcError) as caught:
            system.client.search.ScoreTexts(request, timeout=30)
        assert refusal(caught.value).fields == (field,)


def test_status_names_every_service(system: System) -> None:
    status = system.client.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_SECONDS)
    assert [service.name for service in status.services] == ["gateway", "encoder", "retriever", "imagestore"]
    assert {service.health for service in status.services} == {admin_pb2.SERVICE_HEALTH_SERVING}
    assert all(service.version for service in status.services)


def test_both_pairs_of_stores_answer_the_same(embedded: System, served: System) -> None:
    flat = types_pb2.IndexSpec(type=types_pb2.INDEX_TYPE_FLAT)
    for system in (embedded, served):
        system.create("congruent", index=flat)
        system.add("congruent", SAMPLE)
    try:
        for text in ("猫", "红色的东西", "吃的", "下雨", "一个男孩在泳池里滑滑梯"):
            one, two = (system.search_strong("congruent", text, top_k=50) for system in (embedded, served))
            assert [image_id for image_id, _ in one] == [image_id for image_id, _ in two]
            assert [score for _, score in one] == pytest.approx([score for _, score in two], abs=1e-5)
    finally:
        for system in (embedded, served):
            system.drop("congruent")


def test_exact_search_agrees_with_a_flat_index(served: System) -> None:
    for name, kind in (("hnsw", types_pb2.INDEX_TYPE_HNSW), ("flat", types_pb2.INDEX_TYPE_FLAT)):
        served.create(name, index=types_pb2.IndexSpec(type=kind))
        served.add(name, SAMPLE)
    try:
        strong = types_pb2.CONSISTENCY_STRONG
        exact = served.search("hnsw", "花", top_k=30, exact=True, consistency=strong).hits
        flat = served.search("flat", "花", top_k=30, consistency=strong).hits
        assert [hit.image_id for hit in exact] == [hit.image_id for hit in flat]
        assert [hit.score for hit in exact] == pytest.approx([hit.score for hit in flat], abs=1e-5)
    finally:
        served.drop("hnsw")
        served.drop("flat")


def test_a_restart_keeps_everything(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.support.system import new_system

    system = new_system(tmp_path_factory.mktemp("restart"))
    with system.running():
        system.create("kept", description="stays")
        system.add("kept", SAMPLE)
        before = system.search_strong("kept", "花")
    with system.running():
        assert system.search_strong("kept", "花") == before
        assert system.count("kept") == len(SAMPLE)
        first = before[0][0]
        assert system.read("kept", first) == SAMPLE[first]
