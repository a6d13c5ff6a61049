"""The retriever's collections and vectors, over a backend in memory."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidField,
    ModelMismatch,
    PrecisionMismatch,
    UpstreamUnavailable,
)
from services.common.fingerprint import Fingerprint
from services.retriever import store as storing
from services.retriever.catalog import ABANDONED_SECONDS
from services.retriever.filters.conditions import Condition, Not, OneOf
from services.retriever.milvus.search_parameters import search_parameters
from services.retriever.records import Consistency, Hit, Index, Metric, Precision, Record, VectorCollection
from services.retriever.store import Search, VectorStore
from tests.unit import virtual_time
from tests.unit.memory_backend import MemoryBackend

OLD, NEW = (Fingerprint(name, 3, name * 64, 1) for name in "ab")
BOUNDED = Consistency.BOUNDED


class AtOnce(random.Random):
    """No call waits."""

    def random(self) -> float:
        return 0.9


def store_of() -> tuple[MemoryBackend, VectorStore]:
    backend = MemoryBackend(AtOnce())
    return backend, VectorStore(backend)


def wanted(name: str = "c", model: Fingerprint = OLD, **fields: Any) -> VectorCollection:
    return VectorCollection(name, model, Metric.INNER_PRODUCT, Index(fields.pop("index", "FLAT")), **fields)


def record(image_id: str, *values: float, **attributes: Any) -> Record:
    return Record(image_id, np.array(values or (1, 0, 0), np.float32), attributes, "f" * 64)


def test_a_collection_is_created_once_and_dropped_with_all_its_generations() -> None:
    async def story() -> None:
        backend, store = store_of()
        made = await store.catalog.create(wanted(description="d"))
        with pytest.raises(CollectionExists):
            await store.catalog.create(wanted())
        assert (await VectorStore(backend).catalog.get("c")).description == "d", "another retriever reads the same"
        await store.catalog.begin_rebuild("c", NEW, None)
        assert len(backend.tables) == 2
        dropped = await store.catalog.drop("c")
        assert dropped is not None
        assert dropped.creation_id == made.creation_id
        assert (backend.tables, backend.aliases) == ({}, {})
        assert await store.catalog.drop("c") is None
        with pytest.raises(CollectionNotFound):
            await store.catalog.get("c")
        assert (await store.catalog.create(wanted())).creation_id != made.creation_id

    virtual_time.run(story())


def test_a_rebuild_is_begun_once_and_committed_once() -> None:
    async def story() -> None:
        backend, store = store_of()
        first = await store.catalog.create(wanted(precision=Precision("f32", strict=True)))
        begun = await store.catalog.begin_rebuild("c", NEW, None, Precision("bf16"))
        assert begun.rebuild is not None
        assert (begun.rebuild.model, begun.rebuild.precision) == (NEW, Precision("bf16", strict=True))
        again = await store.catalog.begin_rebuild("c", NEW, None)
        assert again.rebuild == begun.rebuild
        committed = await store.catalog.commit_rebuild("c")
        assert (committed.model, committed.rebuild, committed.creation_id) == (NEW, None, first.creation_id)
        assert list(backend.tables) == [committed.physical]
        assert await store.catalog.commit_rebuild("c") == committed, "a second time does nothing"
        assert await store.catalog.begin_rebuild("c", NEW, None) == committed, "it has that model already"

    virtual_time.run(story())


def test_a_rebuild_for_a_third_model_takes_the_place_of_the_one_before() -> None:
    async def story() -> None:
        backend, store = store_of()
        await store.catalog.create(wanted())
        await store.catalog.begin_rebuild("c", NEW, None)
        third = Fingerprint("c", 3, "c" * 64, 1)
        found = await store.catalog.begin_rebuild("c", third, None)
        assert found.rebuild is not None
        assert found.rebuild.model == third
        assert len(backend.tables) == 2
        assert (await store.catalog.abort_rebuild("c")).rebuild is None
        assert len(backend.tables) == 1

    virtual_time.run(story())


def test_what_a_killed_creation_left_goes_at_the_start_and_what_is_being_made_stays() -> None:
    async def story() -> None:
        backend, store = store_of()
        await store.catalog.create(wanted("kept"))
        for name, age in (("old", ABANDONED_SECONDS + 60), ("young", 0)):
            left = wanted(name, create_time=time.time() - age)
            await backend.create(f"{name}_G00000000", 3, left.metric, left.index, left.to_json())
        await store.catalog.remove_abandoned()
        assert sorted(name.partition("_")[0] for name in backend.tables) == ["kept", "young"]

    virtual_time.run(story())


def test_a_creation_that_fails_in_the_middle_leaves_nothing() -> None:
    async def story() -> None:
        backend, store = store_of()

        async def broken(name: str, alias: str) -> None:
            raise UpstreamUnavailable("milvus", "broken")

        backend.create_alias = broken  # type: ignore[method-assign]
        with pytest.raises(UpstreamUnavailable):
            await store.catalog.create(wanted())
        assert backend.tables == {}

    virtual_time.run(story())


def test_collections_come_in_pages_by_their_ids() -> None:
    async def story() -> None:
        _, store = store_of()
        for name in ("b", "a", "a_1", "c"):
            await store.catalog.create(wanted(name))
        await store.catalog.begin_rebuild("a", NEW, None)
        pages, last = [], ""
        while True:
            page, last = await store.catalog.page(last, 2)
            pages.append([(each.id, each.rebuild is not None) for each in page])
            if not last:
                break
        assert pages == [[("a", True), ("a_1", False)], [("b", False), ("c", False)]]

    virtual_time.run(story())


def test_the_model_guard() -> None:
    async def story() -> None:
        _, store = store_of()
        await store.catalog.create(wanted(precision=Precision("f32", strict=True)))
        with pytest.raises(ModelMismatch, match=r"built with a \(dim 3.*this is b"):
            await store.upsert("c", NEW, [record("x")])
        with pytest.raises(PrecisionMismatch):
            await store.upsert("c", OLD, [record("x")], "bf16")
        await store.upsert("c", OLD, [record("x")], "")
        assert (await store.upsert("c", OLD, [record("x")], "f32")).rebuild is None
        with pytest.raises(ModelMismatch):
            await store.search("c", NEW, Search([np.ones(3, np.float32)], 1))
        await store.catalog.begin_rebuild("c", NEW, None)
        assert (await store.upsert("c", OLD, [record("x")])).rebuild is not None, "the caller is told of the other"
        await store.upsert("c", NEW, [record("y")])
        with pytest.raises(ModelMismatch):
            await store.search("c", NEW, Search([np.ones(3, np.float32)], 1))
        assert await ids_of(store) == ["x"]
        assert await ids_of(store, rebuild=True) == ["y"]

    virtual_time.run(story())


async def ids_of(store: VectorStore, rebuild: bool = False) -> list[str]:
    return [each.image_id for each in await store.page("c", "", 100, None, False, BOUNDED, rebuild)]


def test_a_delete_takes_from_every_generation_or_from_the_next_alone() -> None:
    async def story() -> None:
        _, store = store_of()
        await store.catalog.create(wanted())
        with pytest.raises(InvalidField, match="not being re-embedded"):
            await store.page("c", "", 1, None, False, BOUNDED, rebuild=True)
        await store.catalog.begin_rebuild("c", NEW, None)
        for model in (OLD, NEW):
            await store.upsert("c", model, [record(each) for each in ("x", "y", "z")])
        await store.delete("c", ["x"])
        await store.delete("c", ["y"], rebuild_only=True)
        assert (await ids_of(store), await ids_of(store, rebuild=True)) == (["y", "z"], ["z"])

    virtual_time.run(story())


@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        (None, "must have 3 components, got 0"),
        ((1.0, 0.0), "must have 3 components, got 2"),
        ((0.0, 0.0, 0.0), "not all zero"),
        ((float("nan"), 0.0, 0.0), "must be finite"),
        ((float("inf"), 0.0, 0.0), "must be finite"),
    ],
)
def test_a_vector_that_cannot_be_compared_is_named(vector: tuple[float, ...] | None, problem: str) -> None:
    async def story() -> None:
        _, store = store_of()
        await store.catalog.create(wanted())
        odd = Record("y", None if vector is None else np.array(vector, np.float32), {})
        with pytest.raises(InvalidField, match=rf"records\[1\]\.embedding: .*{problem}"):
            await store.upsert("c", OLD, [record("x"), odd])
        assert await ids_of(store) == []

    virtual_time.run(story())


@pytest.mark.parametrize("length", [1e-30, 0.5, 1.0, 3e38])
def test_vectors_are_stored_with_length_1_whatever_came(length: float) -> None:
    async def story() -> None:
        _, store = store_of()
        await store.catalog.create(wanted())
        await store.upsert("c", OLD, [record("x", 0.6 * length, 0.8 * length, 0)])
        [found] = await store.fetch("c", ["x"], True, BOUNDED)
        assert found.vector == pytest.approx([0.6, 0.8, 0])

    virtual_time.run(story())


# Few directions, so that there are many ties.
vectors = st.sampled_from([(1, 0, 0), (0, 1, 0), (0.6, 0.8, 0), (-1, 0, 0)])


@settings(max_examples=60)
@given(
    st.dictionaries(st.text("abc图", min_size=1, max_size=3), st.tuples(vectors, st.integers(0, 2)), max_size=25),
    st.lists(vectors, min_size=1, max_size=2),
    st.integers(1, 8),
    st.sampled_from([None, OneOf("n", numbers=frozenset({1.0})), Not(OneOf("n", numbers=frozenset({1.0})))]),
    st.sampled_from(["FLAT", "HNSW"]),
)
def test_the_nearest_come_best_first_and_ties_by_id(
    images: dict[str, tuple[tuple[float, ...], int]],
    queries: list[tuple[float, ...]],
    top_k: int,
    where: Condition | None,
    index: str,
) -> None:
    """On a backend that has no filters of its own; with HNSW, `exact` compares every vector here."""

    async def found() -> list[list[Hit]]:
        _, store = store_of()
        await store.catalog.create(wanted(index=index))
        await store.upsert("c", OLD, [record(each, *vector, n=number) for each, (vector, number) in images.items()])
        asked = [np.array(query, np.float32) for query in queries]
        matching = len(chosen)
        assert await store.count("c", where, BOUNDED) == matching
        return await store.search("c", OLD, Search(asked, top_k, where, exact=True))

    chosen = {
        image_id: vector
        for image_id, (vector, number) in images.items()
        if where is None or (number == 1) is isinstance(where, OneOf)
    }
    for query, hits in zip(queries, virtual_time.run(found()), strict=True):
        scores = {image_id: float(np.dot(query, vector)) for image_id, vector in chosen.items()}
        nearest = sorted(scores, key=lambda each: (-round(scores[each], 6), each.encode()))[:top_k]
        assert [hit.image_id for hit in hits] == nearest
        assert [hit.score for hit in hits] == pytest.approx([scores[each] for each in nearest], abs=1e-6)


def test_where_the_cut_goes_through_a_tie_more_are_fetched_and_no_more_than_needed() -> None:
    async def story(same: int, top_k: int) -> tuple[list[str], list[int]]:
        backend, store = store_of()
        await store.catalog.create(wanted())
        images = [record(f"{number:03}", 1, 0, 0) for number in range(same)]
        await store.upsert("c", OLD, [*images, record("far", 0, 1, 0)])
        [hits] = await store.search("c", OLD, Search([np.array([1, 0, 0], np.float32)], top_k))
        return [hit.image_id for hit in hits], backend.limits

    assert virtual_time.run(story(20, 2)) == (["000", "001"], [3, 6, 12, 24])
    assert virtual_time.run(story(2, 2)) == (["000", "001"], [3])


def test_records_come_in_the_order_they_were_asked_for_and_in_pages_by_id() -> None:
    async def story() -> None:
        _, store = store_of()
        await store.catalog.create(wanted())
        await store.upsert("c", OLD, [record(each, n=place % 2) for place, each in enumerate("dbacef")])
        found = await store.fetch("c", ["c", "missing", "a"], False, BOUNDED)
        assert [each.image_id for each in found] == ["c", "a"]
        assert (found[0].content_sha256, found[0].model_sha256) == ("f" * 64, OLD.checkpoint_sha256)
        odd = OneOf("n", numbers=frozenset({1.0}))
        for where, pages in ((None, ["ab", "de", ""]), (odd, ["bc", "f", ""])):
            asked = [await store.page("c", last, 2, where, False, BOUNDED) for last in ("", "c", "f")]
            assert ["".join(each.image_id for each in page) for page in asked] == pages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "SCAN_PAGE", 2)
        virtual_time.run(story())


def test_an_index_gets_the_parameters_that_it_has() -> None:
    assert search_parameters("FLAT", {"ef": 9}, 11) == {}
    assert search_parameters("HNSW", {}, 11) == {"ef": 192}
    assert search_parameters("HNSW", {}, 500) == {"ef": 1000}
    assert search_parameters("HNSW", {"ef": 20}, 11) == {"ef": 20}
    assert search_parameters("HNSW", {"ef": 20}, 101) == {"ef": 101}, "Milvus refuses less than it is to find"
    assert search_parameters("IVF_FLAT", {"nprobe": 3}, 11) == {"nprobe": 3}
    assert search_parameters("DISKANN", {}, 200) == {"search_list": 200}
