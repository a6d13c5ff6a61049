"""What a search answers from what the three services say, and when one of them does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf import duration_pb2
from prometheus_client import CollectorRegistry

from gateway.metrics import GatewayMetrics
from gateway.precision import PrecisionNotes
from gateway.search.searcher import THUMBNAIL_SECONDS, Searcher
from protos import encoder_pb2, imagestore_pb2, retriever_pb2, types_pb2
from protos import search_pb2 as pb
from services.common.calls import incoming
from services.common.errors import (
    CollectionNotFound,
    DeadlineExceeded,
    InvalidField,
    ModelMismatch,
    NotImplementedYet,
    UpstreamUnavailable,
    WentuError,
)
from services.common.limits import MAX_HIT_PARTS, MAX_TOP_K

FETCH_SECONDS = 2.0
MODEL = types_pb2.ModelFingerprint(name="a", dim=2, checkpoint_sha256="a" * 64, preprocessing_version=1)
CREATION = "C1"


class FakeServices:
    """Stands for each client of a gateway: what the services answer, and what they were asked."""

    def __init__(self) -> None:
        self.encoders = self.retriever = self.imagestore = self
        self.hits = ["a", "b", "c"]
        self.stored = {"a", "b", "c"}
        self.asked: list[str] = []
        self.requests: list[retriever_pb2.SearchVectorsRequest] = []
        self.fetches: list[dict[str, Any]] = []
        self.fail: Callable[[str], WentuError | None] = lambda what: None
        self.truncated = False
        self.precisions = ("", "")

    def _called(self, what: str) -> None:
        self.asked.append(what)
        if (error := self.fail(what)) is not None:
            raise error

    async def of_collection(self, collection: str, fresh: bool = False) -> FakeServices:
        self._called("fresh" if fresh else "known")
        return self

    async def encode_texts(self, texts: Sequence[str]) -> encoder_pb2.EncodeTextsResponse:
        self._called("encode")
        embedding = types_pb2.Embedding(values=[len(texts[0]), 1])
        result = encoder_pb2.TextEmbedding(embedding=embedding, truncated=self.truncated)
        return encoder_pb2.EncodeTextsResponse(results=[result], model=MODEL, precision=self.precisions[0])

    async def search_vectors(self, request: retriever_pb2.SearchVectorsRequest) -> retriever_pb2.SearchVectorsResponse:
        self._called("search")
        self.requests.append(request)
        hits = [
            retriever_pb2.VectorHit(image_id=each, score=1 - place / 10, distance=place / 5)
            for place, each in enumerate(self.hits)
        ]
        return retriever_pb2.SearchVectorsResponse(
            results=[retriever_pb2.VectorHits(hits=hits)], creation_id=CREATION, precision=self.precisions[1]
        )

    async def get_blobs(self, collection: str, image_ids: Sequence[str], **options: Any) -> list[imagestore_pb2.Blob]:
        self.fetches.append({"ids": list(image_ids), **options})
        self._called("fetch")
        # As they lie in the store, which is not the order of the hits.
        return [
            imagestore_pb2.Blob(info=types_pb2.ImageInfo(image_id=each, size_bytes=7), thumbnail=b"small")
            for each in sorted(self.stored & {*image_ids}, reverse=True)
        ]


class Rig:
    """A searcher over fakes, and what it told of hits without bytes."""

    def __init__(self) -> None:
        self.services = FakeServices()
        self.told: list[tuple[str, list[str]]] = []
        self.registry = CollectorRegistry()

        def without_bytes(collection: str, image_ids: Sequence[str]) -> None:
            self.told.append((collection, list(image_ids)))

        notes = PrecisionNotes(GatewayMetrics(self.registry))
        self.searcher = Searcher(self.services, FETCH_SECONDS, without_bytes, notes)  # type: ignore[arg-type]

    async def search(self, **fields: Any) -> pb.SearchResponse:
        return await self.searcher.search(pb.SearchRequest(collection="c", query=pb.Query(text="图"), **fields))


def failing(what: str, *errors: WentuError | None) -> Callable[[str], WentuError | None]:
    """Those errors at the first calls of a kind, None for a success, and the last one ever after."""
    left = list(errors)

    def fail(called: str) -> WentuError | None:
        if called != what:
            return None
        return left.pop(0) if len(left) > 1 else left[0]

    return fail


async def test_hits_come_in_their_order_with_what_is_known_of_their_images() -> None:
    rig = Rig()
    rig.services.truncated = True
    found = await rig.search()
    assert [hit.image_id for hit in found.hits] == ["a", "b", "c"]
    assert [(hit.score, hit.distance) for hit in found.hits] == [
        pytest.approx(pair) for pair in ((1, 0), (0.9, 0.2), (0.8, 0.4))
    ]
    assert all(hit.image == types_pb2.ImageInfo(image_id=hit.image_id, size_bytes=7) for hit in found.hits)
    assert (found.dropped_hits, found.images_unavailable, found.text_truncated) == (0, False, True)
    assert found.model == MODEL
    assert rig.told == []
    zero = duration_pb2.Duration()
    assert all(each != zero for each in (found.timings.encode, found.timings.retrieve, found.timings.fetch))


async def test_a_hit_without_bytes_is_dropped_counted_and_told() -> None:
    rig = Rig()
    rig.services.stored = {"a", "c"}
    found = await rig.search()
    assert [hit.image_id for hit in found.hits] == ["a", "c"]
    assert found.dropped_hits == 1
    assert not found.images_unavailable
    assert rig.told == [("c", ["b"])]
    assert rig.services.asked.count("search") == 1, "nothing is put in its place: it is repaired in the background"


async def test_the_bytes_of_the_creation_that_was_searched_are_fetched() -> None:
    rig = Rig()
    await rig.search()
    [fetch] = rig.services.fetches
    assert (fetch["ids"], fetch["creation_id"], fetch["thumbnails"]) == (["a", "b", "c"], CREATION, False)
    assert fetch["limit_seconds"] == FETCH_SECONDS


async def test_thumbnails_that_must_be_made_get_their_time() -> None:
    rig = Rig()
    found = await rig.search(include=[pb.HIT_PART_THUMBNAIL])
    assert [hit.thumbnail for hit in found.hits] == [b"small"] * 3
    [fetch] = rig.services.fetches
    assert fetch["thumbnails"]
    assert fetch["limit_seconds"] == FETCH_SECONDS + 3 * THUMBNAIL_SECONDS


async def test_a_search_that_finds_nothing_asks_for_no_images() -> None:
    rig = Rig()
    rig.services.hits = []
    rig.services.fail = failing("fetch", UpstreamUnavailable("imagestore", "x"))
    found = await rig.search()
    assert (len(found.hits), found.images_unavailable, found.dropped_hits) == (0, False, 0)
    assert rig.services.fetches == []


@pytest.mark.parametrize("error", [UpstreamUnavailable("imagestore", "it hangs"), DeadlineExceeded("too late")])
async def test_without_the_image_store_ids_and_scores_still_count(error: WentuError) -> None:
    rig = Rig()
    rig.services.fail = failing("fetch", error)
    found = await rig.search()
    assert [hit.image_id for hit in found.hits] == ["a", "b", "c"]
    assert (found.dropped_hits, found.images_unavailable) == (0, True)
    assert not any(hit.HasField("image") for hit in found.hits)
    assert rig.told == [], "nobody knows whether they have bytes"


async def test_an_image_store_that_hangs_is_left_alone() -> None:
    rig = Rig()
    rig.services.fail = failing("fetch", UpstreamUnavailable("imagestore", "it hangs"))
    answers = [await rig.search() for _ in range(5)]
    assert all(answer.images_unavailable for answer in answers)
    assert len(rig.services.fetches) == 3


async def test_an_image_store_that_answers_now_and_then_is_asked_on() -> None:
    rig = Rig()
    broken = UpstreamUnavailable("imagestore", "it hangs")
    rig.services.fail = failing("fetch", *[broken, broken, None] * 3, None)
    assert [(await rig.search()).images_unavailable for _ in range(9)] == [True, True, False] * 3


async def test_callers_in_a_hurry_say_nothing_about_the_image_store() -> None:
    rig = Rig()
    rig.services.fail = failing("fetch", *[DeadlineExceeded("x")] * 5, None)
    for _ in range(5):
        with incoming("", FETCH_SECONDS / 2):
            assert (await rig.search()).images_unavailable
    assert not (await rig.search()).images_unavailable


async def test_an_answer_that_is_no_trouble_of_the_image_store_is_the_callers() -> None:
    rig = Rig()
    rig.services.fail = failing("fetch", CollectionNotFound("c"))
    with pytest.raises(CollectionNotFound):
        await rig.search()


async def test_a_collection_that_was_re_embedded_a_moment_ago_is_asked_about_again() -> None:
    rig = Rig()
    rig.services.fail = failing("search", ModelMismatch("c", "new", "old"), None)
    assert len((await rig.search()).hits) == 3
    assert rig.services.asked == ["known", "encode", "search", "fresh", "encode", "search", "fetch"]
    rig.services.fail = failing("search", ModelMismatch("c", "new", "old"))
    with pytest.raises(ModelMismatch):
        await rig.search()


async def test_a_text_that_the_encoder_refuses_is_the_callers_query_text() -> None:
    rig = Rig()
    rig.services.fail = failing("encode", InvalidField("texts[0]", "must have at most 9 characters"))
    with pytest.raises(InvalidField, match=r"^query\.text: must have at most 9 characters$") as caught:
        await rig.search()
    assert caught.value.field == "query.text"


async def test_what_was_asked_for_reaches_the_retriever() -> None:
    rig = Rig()
    rig.services.precisions = ("bf16", "f32")
    where = types_pb2.Filter(exists=types_pb2.ExistsCondition(attribute="a"))
    found = await rig.search(
        top_k=3,
        min_score=-0.5,
        exact=True,
        filter=where,
        consistency=types_pb2.CONSISTENCY_STRONG,
        include=[pb.HIT_PART_EMBEDDING],
    )
    [request] = rig.services.requests
    request.ClearField("parameters")
    assert request == retriever_pb2.SearchVectorsRequest(
        collection="c",
        queries=[types_pb2.Embedding(values=[1, 1])],
        top_k=3,
        min_score=-0.5,
        exact=True,
        filter=where,
        model=MODEL,
        consistency=types_pb2.CONSISTENCY_STRONG,
        include_embeddings=True,
        precision="bf16",
    )
    assert found.notes == [pb.NOTE_PRECISION_MISMATCH]
    name, labels = "wentu_gateway_precision_mismatches_total", {"operation": "search"}
    assert rig.registry.get_sample_value(name, labels) == 1
    await rig.search()
    assert rig.services.requests[1].top_k == 10
    assert not rig.services.requests[1].HasField("min_score")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": pb.Query()}, "query"),
        ({"query": pb.Query(text=" \u3000\n")}, "query.text"),
        ({"collection": "A"}, "collection"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": MAX_TOP_K + 1}, "top_k"),
        ({"min_score": 1.01}, "min_score"),
        ({"min_score": float("nan")}, "min_score"),
        ({"include": [pb.HIT_PART_THUMBNAIL] * (MAX_HIT_PARTS + 1)}, "include"),
    ],
)
async def test_a_bad_request_names_its_field_and_reaches_no_service(fields: dict[str, Any], field: str) -> None:
    rig = Rig()
    request = pb.SearchRequest(**{"collection": "c", "query": pb.Query(text="图"), **fields})
    with pytest.raises(InvalidField) as caught:
        await rig.searcher.search(request)
    assert caught.value.field == field
    assert rig.services.asked == []


async def test_what_is_not_served_yet_is_refused_and_not_ignored() -> None:
    rig = Rig()
    with pytest.raises(NotImplementedYet, match="page_token"):
        await rig.search(page_token="x")
    assert rig.services.asked == []
