"""RetrieverService: validate, call, convert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from grpc import aio

from protos import retriever_pb2 as pb
from protos import retriever_pb2_grpc, types_pb2
from services.common import __version__
from services.common.attributes import check_attributes
from services.common.errors import CollectionNotFound, InvalidField
from services.common.fingerprint import Fingerprint, check_precision
from services.common.ids import (
    check_collection,
    check_count,
    check_distinct,
    check_image_id,
    check_image_ids,
    check_range,
    check_sha256,
    page_size,
    page_start,
    page_token,
)
from services.common.interceptors import Context
from services.common.limits import MAX_DESCRIPTION_CHARS, MAX_DIM, MAX_QUERIES, MAX_RECORDS, MAX_VECTOR_TOP_K
from services.common.pages import fitting
from services.common.thread_pool import aside
from services.retriever.filters.conditions import Condition, read_filter
from services.retriever.records import (
    Consistency,
    Hit,
    Index,
    Metric,
    Precision,
    Record,
    Vector,
    VectorCollection,
)
from services.retriever.store import Search, VectorStore

NAME = pb.DESCRIPTOR.services_by_name["RetrieverService"].full_name

METRICS = {
    types_pb2.METRIC_UNSPECIFIED: Metric.INNER_PRODUCT,
    types_pb2.METRIC_INNER_PRODUCT: Metric.INNER_PRODUCT,
    types_pb2.METRIC_COSINE: Metric.COSINE,
    types_pb2.METRIC_L2: Metric.L2,
}
CONSISTENCIES = {
    types_pb2.CONSISTENCY_UNSPECIFIED: Consistency.BOUNDED,
    types_pb2.CONSISTENCY_BOUNDED: Consistency.BOUNDED,
    types_pb2.CONSISTENCY_STRONG: Consistency.STRONG,
    types_pb2.CONSISTENCY_SESSION: Consistency.SESSION,
}
# Build parameters of each type: the name that is kept with the collection, default, least, most.
BUILD_PARAMETERS: Mapping[str, Mapping[str, tuple[str, int, int, int]]] = {
    "FLAT": {},
    "IVF_FLAT": {"nlist": ("nlist", 1024, 1, 65536)},
    "IVF_SQ8": {"nlist": ("nlist", 1024, 1, 65536)},
    "HNSW": {"m": ("M", 16, 4, 64), "ef_construction": ("efConstruction", 200, 8, 512)},
    "DISKANN": {},
    "AUTOINDEX": {},
}
# Of one search: the most of each.
SEARCH_PARAMETERS: Mapping[str, int] = {"ef": 32_768, "nprobe": 65_536, "search_list": 65_535}
_INDEX_PREFIX = "INDEX_TYPE_"


class RetrieverServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    def __init__(self, store: VectorStore, limits: types_pb2.MessageLimits) -> None:
        self._store = store
        self._limits = limits

    def add_to(self, server: aio.Server) -> None:
        retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(self, server)

    async def CreateVectorCollection(
        self, request: pb.CreateVectorCollectionRequest, context: Context
    ) -> pb.CreateVectorCollectionResponse:
        if len(request.description) > MAX_DESCRIPTION_CHARS:
            raise InvalidField("description", f"must have at most {MAX_DESCRIPTION_CHARS:,} characters")
        if request.metric not in METRICS:
            raise InvalidField("metric", f"{request.metric} is not a metric")
        wanted = VectorCollection(
            id=check_collection(request.collection),
            model=Fingerprint.from_message(request.model),
            metric=METRICS[request.metric],
            index=self._index(request.index),
            description=request.description,
            precision=_precision(request),
        )
        return pb.CreateVectorCollectionResponse(collection=_collection(await self._store.catalog.create(wanted)))

    async def GetVectorCollection(
        self, request: pb.GetVectorCollectionRequest, context: Context
    ) -> pb.GetVectorCollectionResponse:
        read = self._store.catalog.fresh if request.fresh else self._store.catalog.get
        found = await read(check_collection(request.collection))
        message = _collection(found)
        if request.include_count:
            message.vector_count = await self._store.count(found.id, None, Consistency.STRONG)
            # A replaced vector stays in the index until the store compacts it.
            message.indexed_count = min(await self._store.indexed(found), message.vector_count)
        return pb.GetVectorCollectionResponse(collection=message)

    async def ListVectorCollections(
        self, request: pb.ListVectorCollectionsRequest, context: Context
    ) -> pb.ListVectorCollectionsResponse:
        found, last = await self._store.catalog.page(page_start(request.page_token), page_size(request.page_size))
        return pb.ListVectorCollectionsResponse(
            collections=[_collection(each) for each in found], next_page_token=page_token(last) if last else ""
        )

    async def DropVectorCollection(
        self, request: pb.DropVectorCollectionRequest, context: Context
    ) -> pb.DropVectorCollectionResponse:
        dropped = await self._store.catalog.drop(check_collection(request.collection))
        return pb.DropVectorCollectionResponse(
            dropped=dropped is not None, creation_id=dropped.creation_id if dropped is not None else ""
        )

    async def UpsertVectors(self, request: pb.UpsertVectorsRequest, context: Context) -> pb.UpsertVectorsResponse:
        check_count(request.records, "records", MAX_RECORDS)
        records = await aside(request.ByteSize(), _to_records, request)
        check_distinct([record.image_id for record in records], "records.image_id")
        model = Fingerprint.from_message(request.model)
        precision = check_precision(request.precision)
        await self._check_creation(check_collection(request.collection), request.creation_id)
        found = await self._store.upsert(request.collection, model, records, precision)
        return pb.UpsertVectorsResponse(
            rebuild_model=found.rebuild.model.to_message() if found.rebuild else None, creation_id=found.creation_id
        )

    async def DeleteVectors(self, request: pb.DeleteVectorsRequest, context: Context) -> pb.DeleteVectorsResponse:
        image_ids = check_image_ids(request.image_ids)
        await self._check_creation(check_collection(request.collection), request.creation_id)
        await self._store.delete(request.collection, image_ids, request.rebuild_only)
        return pb.DeleteVectorsResponse(creation_id=await self._creation_id(request.collection))

    async def SearchVectors(self, request: pb.SearchVectorsRequest, context: Context) -> pb.SearchVectorsResponse:
        check_count(request.queries, "queries", MAX_QUERIES)
        check_range(request.top_k, "top_k", 1, MAX_VECTOR_TOP_K)
        results = await self._store.search(
            check_collection(request.collection),
            Fingerprint.from_message(request.model),
            Search(
                await aside(request.ByteSize(), _queries, request),
                request.top_k,
                where=await _where(request),
                parameters=_search_parameters(request.parameters),
                exact=request.exact,
                with_vectors=request.include_embeddings,
                consistency=_consistency(request.consistency),
                precision=check_precision(request.precision),
            ),
        )
        searched = await self._store.catalog.get(request.collection)
        least = request.min_score if request.HasField("min_score") else -math.inf
        return pb.SearchVectorsResponse(
            results=[pb.VectorHits(hits=[_hit(hit) for hit in hits if hit.score >= least]) for hits in results],
            creation_id=searched.creation_id,
            precision=searched.precision.name,
        )

    async def GetVectors(self, request: pb.GetVectorsRequest, context: Context) -> pb.GetVectorsResponse:
        records = await self._store.fetch(
            check_collection(request.collection),
            check_image_ids(request.image_ids),
            request.include_embeddings,
            _consistency(request.consistency),
            request.rebuild,
        )
        return pb.GetVectorsResponse(
            records=[_from_record(record) for record in records],
            creation_id=await self._creation_id(request.collection),
        )

    async def ListVectors(self, request: pb.ListVectorsRequest, context: Context) -> pb.ListVectorsResponse:
        size = page_size(request.page_size)
        records = await self._store.page(
            check_collection(request.collection),
            page_start(request.page_token),
            size + 1,
            await _where(request),
            request.include_embeddings,
            _consistency(request.consistency),
            request.rebuild,
        )
        page = fitting(map(_from_record, records), size, self._limits.max_answer_bytes)
        return pb.ListVectorsResponse(
            records=page,
            next_page_token=page_token(page[-1].image_id) if len(page) < len(records) else "",
            creation_id=await self._creation_id(request.collection),
        )

    async def CountVectors(self, request: pb.CountVectorsRequest, context: Context) -> pb.CountVectorsResponse:
        collection = check_collection(request.collection)
        count = await self._store.count(collection, await _where(request), _consistency(request.consistency))
        return pb.CountVectorsResponse(count=count)

    async def BeginRebuild(self, request: pb.BeginRebuildRequest, context: Context) -> pb.BeginRebuildResponse:
        found = await self._store.catalog.begin_rebuild(
            check_collection(request.collection),
            Fingerprint.from_message(request.model),
            self._index(request.index) if request.HasField("index") else None,
            _precision(request),
        )
        return pb.BeginRebuildResponse(collection=_collection(found))

    async def CommitRebuild(self, request: pb.CommitRebuildRequest, context: Context) -> pb.CommitRebuildResponse:
        found = await self._store.catalog.commit_rebuild(check_collection(request.collection))
        return pb.CommitRebuildResponse(collection=_collection(found))

    async def AbortRebuild(self, request: pb.AbortRebuildRequest, context: Context) -> pb.AbortRebuildResponse:
        await self._store.catalog.abort_rebuild(check_collection(request.collection))
        return pb.AbortRebuildResponse()

    async def GetVectorStore(self, request: pb.GetVectorStoreRequest, context: Context) -> pb.GetVectorStoreResponse:
        return pb.GetVectorStoreResponse(
            kind=self._store.kind,
            store_version=await self._store.version(),
            version=__version__,
            messages=self._limits,
        )

    async def _creation_id(self, collection: str) -> str:
        return (await self._store.catalog.get(collection)).creation_id

    async def _check_creation(self, collection: str, creation_id: str) -> None:
        """Raises CollectionNotFound if another creation of the collection is meant."""
        if not creation_id:
            return
        for read in (self._store.catalog.get, self._store.catalog.fresh):  # it may have been created again a moment ago
            if (await read(collection)).creation_id == creation_id:
                return
        raise CollectionNotFound(collection)

    def _index(self, message: types_pb2.IndexSpec) -> Index:
        if message.type == types_pb2.INDEX_TYPE_UNSPECIFIED:
            if message.ListFields():
                raise InvalidField("index.type", "must be set where its parameters are")
            return self._store.default_index
        try:
            name = types_pb2.IndexType.Name(message.type).removeprefix(_INDEX_PREFIX)
        except ValueError:
            raise InvalidField("index.type", f"{message.type} is not an index type") from None
        if name not in self._store.index_types:
            raise InvalidField("index.type", f"{name} cannot be built by {self._store.kind}")
        allowed = BUILD_PARAMETERS[name]
        given = {field.name: value for field, value in message.ListFields() if field.name != "type"}
        for field, value in given.items():
            if field not in allowed:
                raise InvalidField(f"index.{field}", f"is not a parameter of {name}")
            check_range(value, f"index.{field}", *allowed[field][2:])
        return Index(name, {key: given.get(field, default) for field, (key, default, _, _) in allowed.items()})


async def _where(request: Any) -> Condition | None:
    if not request.HasField("filter"):
        return None
    return await aside(request.filter.ByteSize(), read_filter, request.filter)


def _queries(request: pb.SearchVectorsRequest) -> list[Vector]:
    return [_vector(query, f"queries[{place}]") for place, query in enumerate(request.queries)]


def _vector(message: types_pb2.Embedding, field: str) -> Vector:
    if len(message.values) > MAX_DIM:
        raise InvalidField(f"{field}.values", f"must have at most {MAX_DIM:,} components")
    return np.array(message.values, dtype=np.float32)


def _to_records(request: pb.UpsertVectorsRequest) -> list[Record]:
    return [_to_record(record, f"records[{place}]") for place, record in enumerate(request.records)]


def _search_parameters(message: types_pb2.SearchParameters) -> dict[str, int]:
    given = {field.name: int(value) for field, value in message.ListFields()}
    for name, value in given.items():
        check_range(value, f"parameters.{name}", 1, SEARCH_PARAMETERS[name])
    return given


def _consistency(value: types_pb2.Consistency.ValueType) -> Consistency:
    if value not in CONSISTENCIES:
        raise InvalidField("consistency", f"{value} is not a consistency")
    return CONSISTENCIES[value]


def _precision(message: pb.CreateVectorCollectionRequest | pb.BeginRebuildRequest) -> Precision:
    return Precision(
        check_precision(message.precision),
        isinstance(message, pb.CreateVectorCollectionRequest) and message.strict_precision,
        json_format.MessageToDict(message.fidelity, preserving_proto_field_name=True),
    )


def _collection(found: VectorCollection) -> pb.VectorCollection:
    create_time = timestamp_pb2.Timestamp()
    create_time.FromMilliseconds(round(found.create_time * 1000))
    names = {key: field for field, (key, *_) in BUILD_PARAMETERS[found.index.type].items()}
    parameters = {names[key]: value for key, value in found.index.parameters.items()}
    metric = next(key for key, value in METRICS.items() if value is found.metric and key)
    return pb.VectorCollection(
        collection=found.id,
        model=found.model.to_message(),
        metric=metric,
        index=types_pb2.IndexSpec(type=types_pb2.IndexType.Value(_INDEX_PREFIX + found.index.type), **parameters),
        create_time=create_time,
        description=found.description,
        creation_id=found.creation_id,
        rebuild_model=found.rebuild.model.to_message() if found.rebuild else None,
        precision=found.precision.name,
        strict_precision=found.precision.strict,
        fidelity=json_format.ParseDict(found.precision.fidelity, types_pb2.ModelFidelity())
        if found.precision.fidelity
        else None,
    )


def _to_record(message: pb.VectorRecord, field: str) -> Record:
    return Record(
        check_image_id(message.image_id, f"{field}.image_id"),
        _vector(message.embedding, f"{field}.embedding"),
        json_format.MessageToDict(check_attributes(message.attributes, f"{field}.attributes")),
        content_sha256=check_sha256(message.content_sha256, f"{field}.content_sha256"),
    )


def _struct(attributes: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(attributes)
    return struct


def _from_record(record: Record) -> pb.VectorRecord:
    message = pb.VectorRecord(
        image_id=record.image_id,
        attributes=_struct(record.attributes),
        content_sha256=record.content_sha256,
        model_sha256=record.model_sha256,
    )
    if record.vector is not None:
        message.embedding.values.extend(record.vector.tolist())
    return message


def _hit(hit: Hit) -> pb.VectorHit:
    message = pb.VectorHit(
        image_id=hit.image_id, score=hit.score, distance=hit.distance, attributes=_struct(hit.attributes)
    )
    if hit.vector is not None:
        message.embedding.values.extend(np.asarray(hit.vector).tolist())
    return message
