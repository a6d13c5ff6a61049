"""The retriever by itself, on Milvus Lite and on a Milvus server: one suite for both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from grpc import aio
from pymilvus import MilvusClient

from protos import retriever_pb2 as pb
from protos import retriever_pb2_grpc, types_pb2
from services.common.channels import foreign_options, open_channel
from services.common.limits import MIB
from services.retriever.__main__ import running
from services.retriever.milvus.idle_flush import IDLE_SECONDS
from services.retriever.milvus.lite import Lite
from services.retriever.milvus.startup_check import startup_check
from services.retriever.records import Index, Metric
from services.retriever.settings import RetrieverSettings
from tests.support.system import refusal

if TYPE_CHECKING:  # the asynchronous stubs exist for type checkers alone
    Stub = retriever_pb2_grpc.RetrieverServiceAsyncStub
DIM = 8
MODEL = types_pb2.ModelFingerprint(name="m", dim=DIM, checkpoint_sha256="a" * 64, preprocessing_version=1)
STRONG = types_pb2.CONSISTENCY_STRONG


@pytest.fixture(params=["lite", "server"])
async def stub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stub]:
    milvus = str(tmp_path / "milvus.db")
    if request.param == "server":
        milvus = request.getfixturevalue("milvus_address")
    settings = RetrieverSettings(port=0, milvus=milvus, shutdown_grace_seconds=0)
    async with running(settings) as port, open_channel(f"127.0.0.1:{port}", direct=True) as channel:
        yield retriever_pb2_grpc.RetrieverServiceStub(channel)


def unit(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


async def create(stub: Stub, name: str, metric: types_pb2.Metric.ValueType = types_pb2.METRIC_UNSPECIFIED) -> None:
    await stub.DropVectorCollection(pb.DropVectorCollectionRequest(collection=name))
    await stub.CreateVectorCollection(
        pb.CreateVectorCollectionRequest(
            collection=name, model=MODEL, metric=metric, index=types_pb2.IndexSpec(type=types_pb2.INDEX_TYPE_FLAT)
        )
    )


async def upsert(stub: Stub, name: str, vectors: dict[str, npt.NDArray[np.float64]]) -> None:
    records = [
        pb.VectorRecord(image_id=image_id, embedding=types_pb2.Embedding(values=vector.tolist()))
        for image_id, vector in vectors.items()
    ]
    for start in range(0, len(records), 1000):
        await stub.UpsertVectors(
            pb.UpsertVectorsRequest(collection=name, records=records[start : start + 1000], model=MODEL)
        )


async def search(stub: Stub, name: str, *queries: npt.NDArray[np.float64], top_k: int = 10) -> list[list[pb.VectorHit]]:
    found = await stub.SearchVectors(
        pb.SearchVectorsRequest(
            collection=name,
            queries=[types_pb2.Embedding(values=query.tolist()) for query in queries],
            top_k=top_k,
            model=MODEL,
            consistency=STRONG,
        )
    )
    return [list(each.hits) for each in found.results]


@pytest.mark.parametrize("metric", [types_pb2.METRIC_INNER_PRODUCT, types_pb2.METRIC_COSINE, types_pb2.METRIC_L2])
async def test_score_is_the_cosine_whatever_the_metric(stub: Stub, metric: types_pb2.Metric.ValueType) -> None:
    await create(stub, "metric", metric)
    vectors = unit(50)
    await upsert(stub, "metric", {f"{place:02}": vector for place, vector in enumerate(vectors)})
    queries = unit(3, seed=1)
    for query, hits in zip(queries, await search(stub, "metric", *queries), strict=True):
        cosines = vectors @ query
        assert [hit.image_id for hit in hits] == [f"{place:02}" for place in np.argsort(-cosines)[:10]]
        assert [hit.score for hit in hits] == pytest.approx(np.sort(cosines)[::-1][:10].tolist(), abs=1e-5)
        assert [hit.distance for hit in hits] == pytest.approx([2 - 2 * hit.score for hit in hits], abs=1e-5)


async def test_upsert_replaces_and_delete_removes(stub: Stub) -> None:
    await create(stub, "replace")
    one, two = unit(2)
    await upsert(stub, "replace", {"a": one, "b": two})
    await upsert(stub, "replace", {"a": two})
    [hits] = await search(stub, "replace", two)
    assert [(hit.image_id, round(hit.score, 4)) for hit in hits] == [("a", 1.0), ("b", 1.0)]
    await stub.DeleteVectors(pb.DeleteVectorsRequest(collection="replace", image_ids=["a", "nope"]))
    [hits] = await search(stub, "replace", two)
    assert [hit.image_id for hit in hits] == ["b"]
    counted = await stub.CountVectors(pb.CountVectorsRequest(collection="replace", consistency=STRONG))
    assert counted.count == 1


async def test_pages_hold_every_id_once_in_order(stub: Stub) -> None:
    await create(stub, "pages")
    ids = [f"{number}" for number in range(2300)]
    await upsert(stub, "pages", dict(zip(ids, unit(len(ids)), strict=True)))
    seen: list[str] = []
    token = ""
    while True:
        page = await stub.ListVectors(
            pb.ListVectorsRequest(collection="pages", page_size=700, page_token=token, consistency=STRONG)
        )
        seen += [record.image_id for record in page.records]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(ids)


async def test_what_is_flushed_is_found_and_replaced(stub: Stub) -> None:
    """Lite flushes after a moment without writes. The answers before and after the flush are the same."""
    await create(stub, "flush")
    vectors = unit(600)
    ids = [f"{place:03}" for place in range(600)]
    await upsert(stub, "flush", dict(zip(ids, vectors, strict=True)))
    before = await search(stub, "flush", *vectors[:3])
    await asyncio.sleep(2 * IDLE_SECONDS)
    assert await search(stub, "flush", *vectors[:3]) == before
    await upsert(stub, "flush", {"000": vectors[1]})
    await stub.DeleteVectors(pb.DeleteVectorsRequest(collection="flush", image_ids=["002"]))
    [one, two] = await search(stub, "flush", vectors[1], vectors[2])
    assert [hit.image_id for hit in one[:2]] == ["000", "001"]
    assert two[0].image_id != "002"
    await create(stub, "flush")  # dropped while a flush is due
    await upsert(stub, "flush", dict(zip(ids, vectors, strict=True)))
    await stub.DropVectorCollection(pb.DropVectorCollectionRequest(collection="flush"))
    await asyncio.sleep(2 * IDLE_SECONDS)
    await stub.GetVectorStore(pb.GetVectorStoreRequest())


async def test_vectors_are_checked(stub: Stub) -> None:
    await create(stub, "checked")
    cases = {
        "records[0].embedding": [0.5] * (DIM + 1),
        "records[0].embedding ": [0.0] * DIM,
        "records[0].embedding  ": [float("nan")] + [0.5] * (DIM - 1),
        "records[0].embedding   ": [float("inf")] + [0.5] * (DIM - 1),
    }
    for field, values in cases.items():
        record = pb.VectorRecord(image_id="a", embedding=types_pb2.Embedding(values=values))
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.UpsertVectors(pb.UpsertVectorsRequest(collection="checked", records=[record], model=MODEL))
        assert refusal(caught.value).fields == (field.strip(),)
    other = types_pb2.ModelFingerprint(name="m", dim=DIM, checkpoint_sha256="b" * 64, preprocessing_version=1)
    record = pb.VectorRecord(image_id="a", embedding=types_pb2.Embedding(values=unit(1)[0].tolist()))
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.UpsertVectors(pb.UpsertVectorsRequest(collection="checked", records=[record], model=other))
    assert refusal(caught.value).reason == "MODEL_MISMATCH"
    counted = await stub.CountVectors(pb.CountVectorsRequest(collection="checked", consistency=STRONG))
    assert counted.count == 0


async def test_vectors_come_back_as_they_were(stub: Stub) -> None:
    await create(stub, "fetch")
    one, two = unit(2)
    await upsert(stub, "fetch", {"a": one, "b": two})
    got = await stub.GetVectors(
        pb.GetVectorsRequest(collection="fetch", image_ids=["b", "x", "a"], include_embeddings=True, consistency=STRONG)
    )
    assert [record.image_id for record in got.records] == ["b", "a"]
    assert list(got.records[0].embedding.values) == pytest.approx(two.tolist(), abs=1e-6)


@pytest.mark.parametrize("stub", ["server"], indirect=True)
async def test_a_collection_that_somebody_released_is_loaded(stub: Stub, milvus_address: str) -> None:
    """A collection as a backup restores it."""
    await create(stub, "released")
    await upsert(stub, "released", {"a": unit(1)[0]})
    with closing(MilvusClient(milvus_address, grpc_options=foreign_options(False))) as client:
        client.release_collection("released")
    got = await stub.GetVectors(pb.GetVectorsRequest(collection="released", image_ids=["a"], consistency=STRONG))
    assert [record.image_id for record in got.records] == ["a"]


async def test_a_page_ends_before_it_is_too_large_for_a_message(tmp_path: Path) -> None:
    settings = RetrieverSettings(port=0, milvus=str(tmp_path / "milvus.db"), max_message_bytes=2 * MIB)
    vector = types_pb2.Embedding(values=unit(1)[0])
    records = [pb.VectorRecord(image_id=f"{number:02}", embedding=vector) for number in range(40)]
    for record in records:
        record.attributes.update({"text": "字" * 20_000})
    async with running(settings) as port, open_channel(f"127.0.0.1:{port}", direct=True) as channel:
        stub: Stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        await create(stub, "large")
        for start in range(0, 40, 20):
            some = records[start : start + 20]
            await stub.UpsertVectors(pb.UpsertVectorsRequest(collection="large", records=some, model=MODEL))
        seen, pages, token = [], 0, ""
        while pages == 0 or token:
            request = pb.ListVectorsRequest(collection="large", page_size=1000, page_token=token, consistency=STRONG)
            page = await stub.ListVectors(request)
            assert page.ByteSize() < MIB
            seen += [record.image_id for record in page.records]
            pages, token = pages + 1, page.next_page_token
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.GetVectors(pb.GetVectorsRequest(collection="large", image_ids=seen, consistency=STRONG))
        refused = refusal(caught.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE")
    assert seen == [record.image_id for record in records]
    assert pages == 3


async def test_what_a_killed_self_test_left_is_dropped(tmp_path: Path) -> None:
    settings = RetrieverSettings(port=0, milvus=str(tmp_path / "milvus.db"), shutdown_grace_seconds=0)
    old, under_way = "SelfTest_00000001_00000000", f"SelfTest_{int(time.time()):08x}_00000000"
    milvus = Lite(settings)
    for name in (old, under_way):
        await milvus.create(name, 2, Metric.INNER_PRODUCT, Index("FLAT"), {})
    await startup_check(milvus)
    assert await milvus.collections() == [under_way]
    await milvus.close()
