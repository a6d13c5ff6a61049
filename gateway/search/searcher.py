"""A search: the query becomes a vector, the vector becomes hits, the hits get what is known of their images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import structlog
from google.protobuf import duration_pb2

from gateway.precision import PrecisionNotes
from gateway.upstreams.circuit_breaker import CircuitBreaker
from gateway.upstreams.clients import Clients
from protos import encoder_pb2, imagestore_pb2, retriever_pb2
from protos import search_pb2 as pb
from services.common.calls import seconds_left
from services.common.errors import Code, InvalidField, ModelMismatch, NotImplementedYet, WentuError
from services.common.ids import check_collection, check_count, check_range
from services.common.limits import DEFAULT_TOP_K, MAX_HIT_PARTS, MAX_TOP_K

log = structlog.get_logger()

THUMBNAIL_SECONDS = 0.2
# Fields of the contract that this version does not look at yet: refused rather than ignored.
NOT_YET = ("group_by", "fold_similarity")


class Searcher:
    """Answers searches over the encoder, the retriever and the image store."""

    def __init__(
        self,
        clients: Clients,
        fetch_seconds: float,
        without_bytes: Callable[[str, Sequence[str]], None],
        notes: PrecisionNotes,
    ) -> None:
        """`without_bytes` is told of a collection's hits that have none."""
        self._clients = clients
        self._fetch_seconds = fetch_seconds
        self._without_bytes = without_bytes
        self._notes = notes
        self._images = CircuitBreaker()

    async def search(self, request: pb.SearchRequest) -> pb.SearchResponse:
        """Raises InvalidField, CollectionNotFound, ModelMismatch, PrecisionMismatch, UpstreamUnavailable,
        DeadlineExceeded.
        """
        check_request(request)
        started = time.perf_counter()
        with self._notes.counting("search"):
            try:
                text, encoded_at, found = await self._found(request)
            except ModelMismatch:
                text, encoded_at, found = await self._found(request, fresh=True)  # perhaps re-embedded a moment ago
        hits = found.results[0].hits
        retrieved_at = time.perf_counter()
        blobs = await self._blobs(request, found.creation_id, [hit.image_id for hit in hits])
        if blobs is not None and (gone := [hit.image_id for hit in hits if hit.image_id not in blobs]):
            self._without_bytes(request.collection, gone)
        filled = [_hit(hit, None if blobs is None else blobs[hit.image_id]) for hit in hits if _has_bytes(hit, blobs)]
        return pb.SearchResponse(
            hits=filled,
            model=text.model,
            text_truncated=text.results[0].truncated,
            dropped_hits=len(hits) - len(filled),
            images_unavailable=blobs is None,
            timings=pb.SearchTimings(
                encode=_duration(encoded_at - started),
                retrieve=_duration(retrieved_at - encoded_at),
                fetch=_duration(time.perf_counter() - retrieved_at),
            ),
            notes=self._notes.of(found.precision, text.precision, "search"),
        )

    async def _found(
        self, request: pb.SearchRequest, fresh: bool = False
    ) -> tuple[encoder_pb2.EncodeTextsResponse, float, retriever_pb2.SearchVectorsResponse]:
        """The query as a vector, when that was done, and what is near to it."""
        encoder = await self._clients.encoder_of(request.collection, fresh)
        try:
            encoded = await encoder.encode_texts([request.query.text])
        except WentuError as error:
            raise error.renamed({"texts[0]": "query.text"}) from error
        encoded_at = time.perf_counter()
        found = await self._clients.search_vectors(
            retriever_pb2.SearchVectorsRequest(
                collection=request.collection,
                queries=[encoded.results[0].embedding],
                top_k=request.top_k if request.HasField("top_k") else DEFAULT_TOP_K,
                filter=request.filter if request.HasField("filter") else None,
                model=encoded.model,
                exact=request.exact,
                consistency=request.consistency,
                parameters=request.parameters,
                min_score=request.min_score if request.HasField("min_score") else None,
                include_embeddings=pb.HIT_PART_EMBEDDING in request.include,
                precision=encoded.precision,
            )
        )
        return encoded, encoded_at, found

    async def _blobs(
        self, request: pb.SearchRequest, creation_id: str, image_ids: Sequence[str]
    ) -> Mapping[str, imagestore_pb2.Blob] | None:
        """What the image store knows of the hits, by id; None where it does not answer: ids and scores still count."""
        if not image_ids:
            return {}
        if not self._images.allows():
            return None
        thumbnails = pb.HIT_PART_THUMBNAIL in request.include
        # A thumbnail that is asked for the first time is made then.
        limit = self._fetch_seconds + (len(image_ids) * THUMBNAIL_SECONDS if thumbnails else 0)
        left = seconds_left()
        try:
            found = await self._clients.get_blobs(
                request.collection,
                image_ids,
                creation_id=creation_id,
                thumbnails=thumbnails,
                limit_seconds=limit,
            )
        except WentuError as error:
            if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                raise
            log.warning("search without images", problem=error.message)
            if left is None or left > limit:  # a caller in a hurry says nothing about the image store
                self._images.failed()
            return None
        self._images.succeeded()
        return {blob.info.image_id: blob for blob in found}


def check_request(request: pb.SearchRequest) -> None:
    """Raises InvalidField for the first field that is not right.

    Raises NotImplementedYet for one that this version cannot serve.
    """
    check_collection(request.collection)
    kind = request.query.WhichOneof("kind")
    if kind is None:
        raise InvalidField("query", 'must be set: {"text": "..."}')
    if kind != "text":
        raise NotImplementedYet(f"query.{kind}")
    if not request.query.text.strip():
        raise InvalidField("query.text", "must hold a word")
    if request.HasField("top_k"):
        check_range(request.top_k, "top_k", 1, MAX_TOP_K)
    if request.HasField("min_score"):
        check_range(request.min_score, "min_score", -1, 1)
    check_count(request.include, "include", MAX_HIT_PARTS, least=0)
    for field in NOT_YET:
        if request.HasField(field):  # type: ignore[arg-type]
            raise NotImplementedYet(field)
    if request.page_token:
        raise NotImplementedYet("page_token")


def _has_bytes(hit: retriever_pb2.VectorHit, blobs: Mapping[str, imagestore_pb2.Blob] | None) -> bool:
    return blobs is None or hit.image_id in blobs


def _hit(hit: retriever_pb2.VectorHit, blob: imagestore_pb2.Blob | None) -> pb.Hit:
    message = pb.Hit(image_id=hit.image_id, score=hit.score, distance=hit.distance, attributes=hit.attributes)
    if hit.HasField("embedding"):
        message.embedding.CopyFrom(hit.embedding)
    if blob is not None:
        message.image.CopyFrom(blob.info)
        message.thumbnail = blob.thumbnail
    return message


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
