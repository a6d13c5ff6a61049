"""The retriever beside pymilvus, on one Milvus server: writes, searches, and the recall of the index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymilvus import DataType, MilvusClient

from bench.report import Report, bare_call_ms
from protos import retriever_pb2 as pb
from protos import retriever_pb2_grpc, types_pb2
from services.common.channels import foreign_options, open_sync_channel

DIM = 512
# Embeddings of images lie near a surface of few dimensions. Plain noise would be too hard for any index.
INNER_DIM = 32
BATCH = 1000
COMPARED = 30  # batches that each side writes, in turns
SEARCHES = 400
EXACT_QUERIES = 200
K = 10
EF = 192  # the retriever's default
COLLECTION = "bench"
DIRECT = "bench_direct"
MODEL = types_pb2.ModelFingerprint(name="bench", dim=DIM, checkpoint_sha256="b" * 64, preprocessing_version=1)
INDEX = {"M": 16, "efConstruction": 200}

Vectors = npt.NDArray[np.float32]


def make(rng: np.random.Generator, count: int) -> Vectors:
    """Unit vectors [count, DIM] near a surface of INNER_DIM dimensions."""
    shape = np.random.default_rng(0).normal(size=(INNER_DIM, DIM))
    made = rng.normal(size=(count, INNER_DIM)) @ shape + 0.3 * rng.normal(size=(count, DIM))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


@dataclass
class Best:
    """Keep the K best rows of each query, by comparing all rows."""

    queries: Vectors

    def __post_init__(self) -> None:
        self.scores = np.full((len(self.queries), K), -np.inf, dtype=np.float32)
        self.ids = np.zeros((len(self.queries), K), dtype=np.int64)

    def see(self, first: int, vectors: Vectors) -> None:
        scores = np.concatenate([self.scores, self.queries @ vectors.T], axis=1)
        numbers = np.arange(first, first + len(vectors))
        ids = np.concatenate([self.ids, np.broadcast_to(numbers, (len(self.queries), len(vectors)))], axis=1)
        order = np.argpartition(-scores, K, axis=1)[:, :K]
        self.scores, self.ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def name(number: int) -> str:
    return f"image/{number:09}"


def create_direct(client: MilvusClient) -> None:
    schema = client.create_schema(auto_id=False)
    schema.add_field("image_id", DataType.VARCHAR, is_primary=True, max_length=255)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("attributes", DataType.JSON)
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="HNSW", metric_type="IP", params=INDEX)
    client.create_collection(DIRECT, schema=schema, index_params=index)


def batches(count: int) -> Iterator[tuple[int, Vectors]]:
    rng = np.random.default_rng(1)
    for first in range(0, count, BATCH):
        yield first, make(rng, min(BATCH, count - first))


def request(first: int, vectors: Vectors) -> pb.UpsertVectorsRequest:
    records = []
    for offset, values in enumerate(vectors.tolist()):
        record = pb.VectorRecord(image_id=name(first + offset), embedding=types_pb2.Embedding(values=values))
        record.attributes.update({"number": first + offset})
        records.append(record)
    return pb.UpsertVectorsRequest(collection=COLLECTION, records=records, model=MODEL)


def rows(first: int, vectors: Vectors) -> list[dict[str, Any]]:
    return [
        {"image_id": name(first + offset), "embedding": vector, "attributes": {"number": float(first + offset)}}
        for offset, vector in enumerate(vectors)
    ]


def measure(report: Report, milvus: str, retriever: str, proxy: str, count: int) -> None:
    """All of it, on a Milvus, a retriever and a bench.proxy that are running."""
    with (
        closing(MilvusClient(milvus, grpc_options=foreign_options(False))) as client,
        open_sync_channel(retriever, direct=True, max_message_bytes=-1) as channel,
        open_sync_channel(proxy, direct=True) as least,
    ):
        stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        index = types_pb2.IndexSpec(
            type=types_pb2.INDEX_TYPE_HNSW, m=INDEX["M"], ef_construction=INDEX["efConstruction"]
        )
        created = pb.CreateVectorCollectionRequest(collection=COLLECTION, model=MODEL, index=index)
        stub.CreateVectorCollection(created)
        create_direct(client)
        best = Best(make(np.random.default_rng(2), EXACT_QUERIES))
        write(report, stub, client, count, best)
        client.drop_collection(DIRECT)
        physical = client.describe_collection(COLLECTION)["collection_name"]
        build(report, client, physical, count)
        report.row("a call that computes nothing, p50", f"{bare_call_ms(channel):.2f} ms")
        search(report, channel, least, client, physical, best)


def write(report: Report, stub: Any, client: MilvusClient, count: int, best: Best) -> None:
    ours = theirs = rest = 0.0
    for number, (first, vectors) in enumerate(batches(count)):
        best.see(first, vectors)
        message = request(first, vectors)
        started = time.perf_counter()
        stub.UpsertVectors(message)
        took = time.perf_counter() - started
        if number >= COMPARED:
            rest += took
            continue
        ours += took
        plain = rows(first, vectors)
        started = time.perf_counter()
        client.upsert(DIRECT, plain)
        theirs += time.perf_counter() - started
    compared = min(COMPARED * BATCH, count)
    report.row(
        f"upserts of {BATCH:,}, the first {compared:,}",
        f"{compared / ours:,.0f} vectors/s",
        f"pymilvus {compared / theirs:,.0f} vectors/s",
        f"{theirs / ours:.0%}",
        "near",
    )
    if rest:
        report.row(f"upserts, the other {count - compared:,}", f"{(count - compared) / rest:,.0f} vectors/s")


def build(report: Report, client: MilvusClient, physical: str, count: int) -> None:
    started = time.perf_counter()
    client.flush(physical, timeout=600)
    [index] = client.list_indexes(physical)
    while (found := client.describe_index(physical, index))["pending_index_rows"] or found["indexed_rows"] < count:
        time.sleep(2)
    # From here on the collection is loaded with its index, as in production.
    client.query(physical, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=600)
    report.row(f"HNSW over {count:,}, after the last write", f"{time.perf_counter() - started:,.0f} s")
    time.sleep(30)


def search(
    report: Report, channel: grpc.Channel, least: grpc.Channel, client: MilvusClient, physical: str, best: Best
) -> None:
    retriever = retriever_pb2_grpc.RetrieverServiceStub(channel)
    proxy = retriever_pb2_grpc.RetrieverServiceStub(least)
    health: Any = health_pb2_grpc.HealthStub(channel)
    queries = make(np.random.default_rng(3), SEARCHES)

    def through(query: Vectors, stub: Any = retriever) -> list[str]:
        answer = stub.SearchVectors(
            pb.SearchVectorsRequest(
                collection=COLLECTION,
                queries=[types_pb2.Embedding(values=query.tolist())],
                top_k=K,
                model=MODEL,
                parameters=types_pb2.SearchParameters(ef=EF),
            )
        )
        return [hit.image_id for hit in answer.results[0].hits]

    def direct(query: Vectors) -> list[str]:
        [answer] = client.search(
            physical,
            [query],
            anns_field="embedding",
            limit=K,
            output_fields=["image_id", "attributes"],
            search_params={"metric_type": "IP", "params": {"ef": EF}},
            consistency_level="Bounded",
        )
        return [hit["image_id"] for hit in answer]

    def proxied(query: Vectors) -> list[str]:
        return through(query, proxy)

    def nothing(_: Vectors) -> None:
        health.Check(health_pb2.HealthCheckRequest())

    ways: list[tuple[str, Callable[[Vectors], Any]]] = [
        ("ours", through),
        ("theirs", direct),
        ("proxy", proxied),
        ("nothing", nothing),
    ]
    times: dict[str, list[float]] = {side: [] for side, _ in ways}
    for query in queries[:50]:
        for _, ask in ways:
            ask(query)
    for turn, query in enumerate(queries):
        for side, ask in (*ways[turn % len(ways) :], *ways[: turn % len(ways)]):
            started = time.perf_counter()
            ask(query)
            times[side].append((time.perf_counter() - started) * 1000)
    report.latencies(f"search, top {K}, ef {EF}", times["ours"], "pymilvus", times["theirs"], "+1 ms")
    passed_on, other = float(np.median(times["proxy"])), float(np.median(times["theirs"]))
    report.row(
        "the barest Python process between, p50", f"{passed_on:.2f} ms", f"pymilvus {other:.2f} ms",
        f"{passed_on - other:+.2f} ms",
    )  # fmt: skip
    # Searches over a million vectors remove everything else from the processor's caches.
    report.row("a call that computes nothing, between searches, p50", f"{np.median(times['nothing']):.2f} ms")
    right = sum(
        len(set(through(query)) & {name(int(number)) for number in ids})
        for query, ids in zip(best.queries, best.ids, strict=True)
    )
    report.row(f"recall@{K} against all compared", f"{right / (K * len(best.queries)):.4f}", "", "", "0.98")
