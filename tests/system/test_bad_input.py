"""Bad input is refused with the right status and the field's name, and changes nothing."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from protos import errors_pb2, types_pb2
from protos import search_pb2 as pb
from services.common.probe import is_serving
from tests.support.images import drawn, encoded, gallery, huge_png, icon_of, noise
from tests.support.system import CALL_SECONDS, Refusal, System, refusal


@pytest.fixture(scope="module")
def shared(system: System) -> Iterator[str]:
    """One collection for all tests: a Milvus server takes seconds to create one."""
    system.create("bad_input")
    yield "bad_input"
    system.drop("bad_input")


@pytest.fixture
def collection(system: System, shared: str) -> Iterator[str]:
    """Empty."""
    yield shared
    nothing = types_pb2.Filter(exists=types_pb2.ExistsCondition(attribute="nothing"))
    everything = types_pb2.Filter(**{"not": nothing})  # type: ignore[arg-type]
    request = pb.DeleteImagesRequest(collection=shared, filter=everything)
    system.client.images.DeleteImages(request, timeout=CALL_SECONDS)


INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def refused(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return refusal(caught.value)


def add_one(system: System, collection: str, data: bytes, image_id: str = "one") -> pb.AddImageResponse:
    upload = types_pb2.ImageUpload(image_id=image_id, data=data)
    return system.client.images.AddImage(pb.AddImageRequest(collection=collection, image=upload), timeout=CALL_SECONDS)


@pytest.mark.parametrize("text", ["", "   ", "\u3000\n"])
def test_blank_text(system: System, collection: str, text: str) -> None:
    got = refused(lambda: system.search(collection, text))
    assert (got.code, got.reason, got.fields) == (INVALID, "INVALID_FIELD", ("query.text",))


def test_text_without_a_word_and_text_beyond_the_limit(system: System, collection: str) -> None:
    for text in ("\u200b", "好" * 10_001):
        got = refused(lambda text=text: system.search(collection, text))  # type: ignore[misc]
        assert (got.code, got.fields) == (INVALID, ("query.text",))
    assert "10,000" in got.message


def test_a_long_text_is_cut_and_the_answer_says_so(system: System, collection: str) -> None:
    system.add(collection, {"a": noise(1), "b": noise(2)})
    cut = system.search(collection, "很" * 50 + "长" * 500, consistency=types_pb2.CONSISTENCY_STRONG)
    whole = system.search(collection, "很" * 50, consistency=types_pb2.CONSISTENCY_STRONG)
    assert cut.text_truncated
    assert not whole.text_truncated
    for one, two in zip(cut.hits, whole.hits, strict=True):
        assert one.image_id == two.image_id
        assert one.score == pytest.approx(two.score, abs=1e-5)


@pytest.mark.parametrize("top_k", [0, 1001, 100_000])
def test_top_k_out_of_range(system: System, collection: str, top_k: int) -> None:
    got = refused(lambda: system.search(collection, "猫", top_k=top_k))
    assert (got.code, got.fields) == (INVALID, ("top_k",))
    assert "1,000" in got.message


def test_unknown_collection(system: System) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: system.search("nothere", "猫"),
        lambda: system.add("nothere", {"a": noise(1)}),
        lambda: add_one(system, "nothere", noise(1)),
        lambda: system.read("nothere", "a"),
        lambda: system.count("nothere"),
        lambda: system.drop("nothere"),
    ]
    for call in calls:
        got = refused(call)
        assert (got.code, got.reason) == (NOT_FOUND, "COLLECTION_NOT_FOUND")
        assert got.metadata["collection"] == "nothere"


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "a" * 64, "a;drop table images", "中文", "../etc", "a\n"])
def test_bad_collection_ids(system: System, name: str) -> None:
    for call in (lambda: system.create(name), lambda: system.search(name, "猫"), lambda: system.drop(name)):
        got = refused(call)
        assert (got.code, got.fields) == (INVALID, ("collection",))


def test_a_collection_of_that_id_exists(system: System, collection: str) -> None:
    got = refused(lambda: system.create(collection))
    assert (got.code, got.reason) == (grpc.StatusCode.ALREADY_EXISTS, "COLLECTION_EXISTS")


def test_index_parameters_are_checked(system: System) -> None:
    cases = {
        "index.m": types_pb2.IndexSpec(type=types_pb2.INDEX_TYPE_HNSW, m=1000),
        "index.nlist": types_pb2.IndexSpec(type=types_pb2.INDEX_TYPE_FLAT, nlist=10),
        "index.type": types_pb2.IndexSpec(ef_construction=100),
    }
    for field, index in cases.items():
        got = refused(lambda index=index: system.create("neverborn", index=index))  # type: ignore[misc]
        assert (got.code, got.fields) == (INVALID, (field,))
    assert refused(lambda: system.count("neverborn")).code is NOT_FOUND


def bad_images() -> Iterator[tuple[str, bytes, str]]:
    """A name, the bytes, and the reason for refusing them."""
    jpeg = encoded(drawn(600, 400), "JPEG")
    yield "no image", b"this is no image at all", "UNREADABLE_IMAGE"
    yield "empty", b"", "UNREADABLE_IMAGE"
    yield "truncated JPEG", jpeg[: len(jpeg) // 2], "UNREADABLE_IMAGE"
    yield "truncated header", jpeg[:20], "UNREADABLE_IMAGE"
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "UNREADABLE_IMAGE"
    yield "PDF", b"%PDF-1.4\n1 0 obj <<>> endobj\n", "UNREADABLE_IMAGE"
    yield "bomb", huge_png(), "IMAGE_TOO_LARGE"
    yield "bomb in an icon", icon_of(huge_png()), "UNREADABLE_IMAGE"
    yield "too many bytes", noise(1) + bytes(16 * 1024 * 1024), "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("name", [name for name, _, _ in bad_images()])
def test_bad_images(system: System, collection: str, name: str) -> None:
    data, reason = next((data, reason) for other, data, reason in bad_images() if other == name)
    got = refused(lambda: add_one(system, collection, data))
    assert (got.code, got.reason, got.fields) == (INVALID, reason, ("image.data",))
    assert refused(lambda: system.read(collection, "one")).code is NOT_FOUND
    assert system.count(collection) == 0


def test_a_message_of_30_megabytes(system: System, collection: str) -> None:
    got = refused(lambda: add_one(system, collection, bytes(30_000_000)))
    assert (got.code, got.reason, got.fields) == (INVALID, "IMAGE_TOO_LARGE", ("image.data",))
    assert "16,777,216" in got.message
    assert system.count(collection) == 0


def test_messages_beyond_the_limits(system: System, collection: str) -> None:
    """The gateway's limit is named in its error. gRPC refuses still larger messages before they are in memory."""
    got = refused(lambda: add_one(system, collection, bytes(32 * 1024 * 1024)))
    assert (got.code, got.reason) == (INVALID, "INVALID_FIELD")
    assert "33,554,432" in got.message
    got = refused(lambda: add_one(system, collection, bytes(60_000_000)))
    assert got.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert system.count(collection) == 0


def test_small_fields_have_a_limit(system: System, collection: str) -> None:
    got = refused(lambda: system.search(collection, "猫", include=[pb.HIT_PART_THUMBNAIL] * 17))
    assert (got.code, got.fields) == (INVALID, ("include",))
    got = refused(lambda: system.search(collection, "猫", include=[pb.HIT_PART_THUMBNAIL] * 3_000_000))
    assert (got.code, got.reason) == (INVALID, "INVALID_FIELD")
    assert "2,097,152" in got.message


def unusual_images() -> dict[str, bytes]:
    """Unusual images that are valid."""
    image = drawn()
    rotated = Image.Exif()
    rotated[0x0112] = 6  # EXIF: rotate by 90 degrees clockwise
    frames = [image.convert("P"), Image.new("P", image.size)]
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    return {
        "one pixel": encoded(Image.new("RGB", (1, 1), "red")),
        "thin": encoded(Image.new("RGB", (5000, 1), "red")),
        "animated GIF": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "16 bit": encoded(Image.fromarray(np.linspace(0, 65535, 6400, dtype=np.uint16).reshape(80, 80))),
        "palette with transparency": encoded(palette, "PNG", transparency=0),
        "RGBA": encoded(image.convert("RGBA")),
        "grey with alpha": encoded(image.convert("LA")),
        "one bit": encoded(image.convert("1")),
        "EXIF-rotated": encoded(image, "JPEG", exif=rotated),
        "TIFF": encoded(image, "TIFF"),
        "BMP": encoded(image, "BMP"),
        "WebP": encoded(image, "WEBP"),
        "AVIF": encoded(image, "AVIF"),
        "JPEG 2000": encoded(image, "JPEG2000"),
    }


def test_odd_images_are_taken(system: System, collection: str) -> None:
    images = unusual_images()
    outcomes = system.add(collection, images)
    assert {name: outcome.error.message for name, outcome in outcomes.items()} == dict.fromkeys(images, "")
    rotated = outcomes["EXIF-rotated"].image
    assert (rotated.width, rotated.height) == (80, 120)
    assert outcomes["animated GIF"].image.media_type == "image/gif"
    for name, data in images.items():
        assert system.read(collection, name) == data


def test_one_bad_image_of_a_hundred_fails_alone(system: System, collection: str) -> None:
    images = {image.image_id: image.data for image in gallery()[:99]}
    stream = dict(list(images.items())[:50]) | {"bad": noise(1)[:100]} | dict(list(images.items())[50:])
    outcomes = system.add(collection, stream)
    bad = outcomes.pop("bad")
    assert bad.status == pb.ADD_STATUS_FAILED
    assert bad.error.reason == errors_pb2.ERROR_REASON_UNREADABLE_IMAGE
    assert bad.error.code == INVALID.value[0]
    assert bad.error.field == "image.data"
    assert bad.index == 50
    assert {outcome.status for outcome in outcomes.values()} == {pb.ADD_STATUS_ADDED}
    assert system.count(collection) == 99
    found = dict(system.search_strong(collection, "笑脸", top_k=100))
    assert set(found) == set(images)


GOOD_IDS = [
    "it's",
    'say "hi"',
    "a/b/../c",
    "back\\slash",
    "😀" * 63 + "abc",
    "中文 id",
    "%s {0} $1",
    "' OR 1=1 --",
    '"] or image_id > "',
    " spaces ",
    "\u202e",
    "a",
    "A",
]
BAD_IDS = ["", "a" * 256, "😀" * 64, "nul\0", "new\nline", "\x7f"]


def test_ids_are_taken_as_they_are(system: System, collection: str) -> None:
    images = {image_id: noise(place) for place, image_id in enumerate(GOOD_IDS)}
    outcomes = system.add(collection, images)
    assert {outcome.status for outcome in outcomes.values()} == {pb.ADD_STATUS_ADDED}
    assert set(dict(system.search_strong(collection, "图", top_k=100))) == set(GOOD_IDS)
    for image_id, data in images.items():
        assert system.read(collection, image_id) == data
        ids = pb.ImageIdList(image_ids=[image_id])
        system.client.images.DeleteImages(pb.DeleteImagesRequest(collection=collection, ids=ids), timeout=CALL_SECONDS)
        assert image_id not in dict(system.search_strong(collection, "图", top_k=100)), image_id
    assert system.count(collection) == 0


@pytest.mark.parametrize("image_id", BAD_IDS)
def test_bad_image_ids(system: System, collection: str, image_id: str) -> None:
    got = refused(lambda: add_one(system, collection, noise(1), image_id))
    assert (got.code, got.fields) == (INVALID, ("image.image_id",))
    outcome = system.add(collection, {image_id: noise(1)})[image_id]
    assert (outcome.status, outcome.error.field) == (pb.ADD_STATUS_FAILED, "image.image_id")
    got = refused(lambda: system.read(collection, image_id))
    assert (got.code, got.fields) == (INVALID, ("image_id",))
    assert system.count(collection) == 0


def test_attributes_beyond_the_limit(system: System, collection: str) -> None:
    upload = types_pb2.ImageUpload(image_id="one", data=noise(1))
    for too_many in (
        {"text": "x" * 70_000},
        {"text": "\x01" * 12_000},
        {"[" * 30_000: "x"},
        {"x": [-1.5e-300 / 7] * 5000},
    ):
        upload.attributes.Clear()
        upload.attributes.update(too_many)
        request = pb.AddImageRequest(collection=collection, image=upload)
        got = refused(lambda request=request: system.client.images.AddImage(request, timeout=CALL_SECONDS))  # type: ignore[misc]
        assert (got.code, got.fields) == (INVALID, ("image.attributes",))
        assert "65,000" in got.message
    upload = types_pb2.ImageUpload(image_id="one", data=noise(1))
    upload.attributes.update({"deep": {"list": [1, math.nan]}})
    request = pb.AddImageRequest(collection=collection, image=upload)
    got = refused(lambda: system.client.images.AddImage(request, timeout=CALL_SECONDS))
    assert (got.code, got.fields) == (INVALID, ("image.attributes['deep']",))


def test_attributes_as_deep_as_they_may_be_are_found(system: System, collection: str) -> None:
    def add(depth: int) -> None:
        deep: Any = 1
        for _ in range(depth - 1):
            deep = {"a": deep}
        upload = types_pb2.ImageUpload(image_id="deep", data=noise(1))
        upload.attributes.update({"a": deep})
        request = pb.AddImageRequest(collection=collection, image=upload)
        system.client.images.AddImage(request, timeout=CALL_SECONDS)

    for depth in (17, 32):  # depth 32 was accepted once, and then every search that hit the image failed
        got = refused(lambda depth=depth: add(depth))  # type: ignore[misc]
        assert (got.code, got.fields) == (INVALID, ("image.attributes['a']",))
    add(16)
    assert [image_id for image_id, _ in system.search_strong(collection, "图")] == ["deep"]


def test_a_bad_filter_is_named_by_its_place(system: System, collection: str) -> None:
    bad = types_pb2.Filter(any=types_pb2.AnyCondition(filters=[types_pb2.Filter()]))
    field = ("filter.any.filters[0]",)
    got = refused(lambda: system.search(collection, "猫", filter=bad))
    assert (got.code, got.fields) == (INVALID, field)
    images = system.client.images
    listing = pb.ListImagesRequest(collection=collection, filter=bad)
    assert refused(lambda: images.ListImages(listing, timeout=CALL_SECONDS)).fields == field
    deletion = pb.DeleteImagesRequest(collection=collection, filter=bad)
    assert refused(lambda: images.DeleteImages(deletion, timeout=CALL_SECONDS)).fields == field


def test_a_stream_must_begin_with_its_options(system: System) -> None:
    first = pb.AddImagesRequest(image=types_pb2.ImageUpload(image_id="a", data=noise(1)))
    for messages in ([], [first]):
        got = refused(lambda messages=messages: list(system.client.images.AddImages(iter(messages), timeout=9)))  # type: ignore[misc]
        assert (got.code, got.fields) == (INVALID, ("options",))


def test_what_is_not_built_yet_says_so(system: System, collection: str) -> None:
    got = refused(lambda: system.search(collection, "猫", group_by=pb.GroupBy(attribute="a")))
    assert (got.code, got.metadata) == (grpc.StatusCode.UNIMPLEMENTED, {"feature": "group_by"})
    batch = pb.BatchSearchRequest(collection=collection)
    got = refused(lambda: system.client.search.BatchSearch(batch, timeout=9))
    assert (got.code, got.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED")
    assert got.metadata == {"feature": "/wentu.v1.SearchService/BatchSearch"}


def test_imports_that_stall_stop_no_search(system: System, collection: str) -> None:
    """One caller opens 500 imports that send nothing more, and 100 searches that never send their message."""
    system.add(collection, {"a": noise(1)})
    gone = threading.Event()

    def waiting(*first: Any) -> Iterator[Any]:
        yield from first
        gone.wait(30)

    options = pb.AddImagesRequest(options=pb.AddImagesOptions(collection=collection)).SerializeToString()
    with grpc.insecure_channel(system.address, [("grpc.use_local_subchannel_pool", 1)]) as hostile:
        imports: Any = hostile.stream_stream("/wentu.v1.ImageService/AddImages")
        searches: Any = hostile.stream_unary("/wentu.v1.SearchService/Search")
        calls = [imports(waiting(options)) for _ in range(500)] + [searches.future(waiting()) for _ in range(100)]
        slowest = 0.0
        for _ in range(5):
            started = time.monotonic()
            assert is_serving(system.address)
            assert [hit.image_id for hit in system.search(collection, "图").hits] == ["a"]
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 1
        gone.set()
        for call in calls:
            call.cancel()


def test_a_deadline_that_has_passed(system: System, collection: str) -> None:
    request = pb.SearchRequest(collection=collection, query=pb.Query(text=uuid.uuid4().hex))
    got = refused(lambda: system.client.search.Search(request, timeout=0.001))
    assert got.code is grpc.StatusCode.DEADLINE_EXCEEDED
