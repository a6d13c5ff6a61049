"""The vector store: vectors with attributes, under the model guard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeGuard, TypeVar

import numpy as np

from services.common.errors import InvalidField
from services.common.fingerprint import Fingerprint
from services.retriever.backend import Selection, VectorBackend
from services.retriever.catalog import Catalog, GenerationGone
from services.retriever.filters.conditions import Condition
from services.retriever.filters.matching import matches
from services.retriever.records import Consistency, Hit, Record, Vector, VectorCollection

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

SCAN_PAGE = 1000
TIE = 1e-6
# Less than a re-embedding waits before it compares what it copied (gateway/maintenance/reembedder.py).
DELETE_SECONDS = 1.0
MAX_DELETES = 5


@dataclass(frozen=True)
class Search:
    """What is asked of a collection: the `top_k` nearest of each query [dim], of those for which `where` holds."""

    queries: Sequence[Vector]
    top_k: int
    where: Condition | None = None
    parameters: dict[str, int] | None = None
    exact: bool = False
    with_vectors: bool = False
    consistency: Consistency = Consistency.BOUNDED
    precision: str = ""


def looking_again(
    read: Callable[Concatenate[VectorStore, Arguments], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[VectorStore, Arguments], Coroutine[Any, Any, Result]]:
    """Reads once more if the generation that was read is gone: the collection may have been re-embedded."""

    @wraps(read)
    async def reading(store: VectorStore, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return await read(store, *args, **kwargs)
        except GenerationGone:
            return await read(store, *args, **kwargs)

    return reading


class VectorStore:
    """All operations on vectors over one backend."""

    def __init__(self, backend: VectorBackend) -> None:
        self._backend = backend
        self.catalog = Catalog(backend)
        self.kind = backend.kind
        self.default_index = backend.default_index
        self.index_types = backend.index_types

    async def version(self) -> str:
        return await self._backend.version()

    @looking_again
    async def count(self, collection: str, where: Condition | None, consistency: Consistency) -> int:
        found = await self.catalog.get(collection)
        if self._compares(where):
            return len(await self._matching(found, where, consistency))
        return int(await self.catalog.on(found, self._backend.count, where, consistency))

    async def indexed(self, found: VectorCollection) -> int:
        """How many vectors the index holds; the rest is in memory, or on its way into it."""
        return int(await self.catalog.on(found, self._backend.indexed))

    async def upsert(
        self, collection: str, model: Fingerprint, records: Sequence[Record], precision: str = ""
    ) -> VectorCollection:
        """Adds or replaces; the collection as it is after that, which may have a generation more to write to.

        Raises CollectionNotFound, ModelMismatch, PrecisionMismatch, InvalidField.
        """
        checked = [
            replace(
                record,
                vector=_checked(record.vector, model.dim, f"records[{place}].embedding"),
                model_sha256=model.checkpoint_sha256,
            )
            for place, record in enumerate(records)
        ]
        while True:
            written = await self.catalog.guarded(collection, model, writing=True, precision=precision)
            try:
                await self.catalog.on(written, self._backend.upsert, checked)
            except GenerationGone:
                continue
            # It may have been replaced meanwhile. Then the rows are not where searches look.
            found = await self.catalog.fresh(collection)
            if written.physical in [each.physical for each in found.generations]:
                return found

    async def delete(self, collection: str, image_ids: Sequence[str], rebuild_only: bool = False) -> None:
        """From every generation, or from the next one alone. Raises CollectionNotFound.

        The bytes are deleted after this, and until then a re-embedding copies them. It waits a moment before it looks
        for what it copied too much. So a delete that took longer than that is made again.
        """
        found = await (self.catalog.fresh(collection) if rebuild_only else self.catalog.get(collection))
        for _ in range(MAX_DELETES):
            began = asyncio.get_running_loop().time()
            done: set[str] = set()
            while left := [each for each in found.generations[rebuild_only:] if each.physical not in done]:
                for each in left:
                    with contextlib.suppress(GenerationGone):
                        await self.catalog.on(each, self._backend.delete, image_ids)
                    done.add(each.physical)
                # Another one may have begun, or taken this one's place, meanwhile.
                found = await self.catalog.fresh(collection)
            if asyncio.get_running_loop().time() - began < DELETE_SECONDS:
                return

    @looking_again
    async def fetch(
        self,
        collection: str,
        image_ids: Sequence[str],
        with_vectors: bool,
        consistency: Consistency,
        rebuild: bool = False,
    ) -> list[Record]:
        """Those of `image_ids` that are there, in their order."""
        found = await self._generation(collection, rebuild)
        records = await self.catalog.on(found, self._backend.fetch, image_ids, with_vectors, consistency)
        by_id = {record.image_id: record for record in records}
        return [by_id[image_id] for image_id in image_ids if image_id in by_id]

    @looking_again
    async def page(
        self,
        collection: str,
        last: str,
        size: int,
        where: Condition | None,
        with_vectors: bool,
        consistency: Consistency,
        rebuild: bool = False,
    ) -> list[Record]:
        """The records with the `size` smallest ids after `last`."""
        found = await self._generation(collection, rebuild)
        page: list[Record] = []
        # If records are compared here, few of those that are read may be wanted.
        step = max(size, SCAN_PAGE) if self._compares(where) else size
        async for records in self._pages(found, last, step, where, with_vectors, consistency):
            page.extend(records)
            if len(page) >= size:
                break
        return page[:size]

    @looking_again
    async def search(self, collection: str, model: Fingerprint, wanted: Search) -> list[list[Hit]]:
        """The hits of each query, best first, ties by id.

        Raises CollectionNotFound, ModelMismatch, PrecisionMismatch, InvalidField.
        """
        found = await self.catalog.guarded(collection, model, precision=wanted.precision)
        vectors = [_checked(query, model.dim, f"queries[{place}]") for place, query in enumerate(wanted.queries)]
        if wanted.exact and found.index.type != "FLAT":
            return await self._scan(found, vectors, wanted)
        among: Selection = wanted.where
        if self._compares(wanted.where) and not (
            among := await self._matching(found, wanted.where, wanted.consistency)
        ):
            return [[] for _ in vectors]
        most = self._backend.max_hits
        limit = min(wanted.top_k + 1, most)
        results = await self._ask(found, vectors, limit, among, wanted)
        for place, vector in enumerate(vectors):
            # One more than asked for was fetched. Where the cut goes through a tie, the ids must decide: fetch more.
            wider = limit
            while _tied_at_cut(results[place], wanted.top_k, wider) and wider < most:
                wider = min(wider * 2, most)
                [results[place]] = await self._ask(found, [vector], wider, among, wanted)
        return [sorted(hits, key=lambda each: each.place)[: wanted.top_k] for hits in results]

    async def close(self) -> None:
        await self.catalog.close()

    async def answers(self) -> None:
        """Passes if the backend answers."""
        await self._backend.collections()

    async def check(self) -> None:
        """Passes if the backend answers and takes writes."""
        await self._backend.check()

    async def _generation(self, collection: str, rebuild: bool) -> VectorCollection:
        found = await self.catalog.get(collection)
        if rebuild and found.rebuild is None:
            raise InvalidField("rebuild", f"{collection} is not being re-embedded")
        return found.rebuild if rebuild and found.rebuild is not None else found

    async def _pages(
        self,
        found: VectorCollection,
        last: str,
        size: int,
        where: Condition | None,
        with_vectors: bool,
        consistency: Consistency,
    ) -> AsyncIterator[list[Record]]:
        """Records after the id `last`, in order, up to `size` at a time; a page may be empty although others follow."""
        comparing = self._compares(where)
        asked = None if comparing else where
        while records := await self.catalog.on(found, self._backend.page, last, size, asked, with_vectors, consistency):
            last = records[-1].image_id
            yield [record for record in records if matches(where, record.attributes)] if comparing else records

    def _compares(self, where: Condition | None) -> TypeGuard[Condition]:
        """Whether records are compared with the condition here, because the backend cannot."""
        return where is not None and not self._backend.evaluates_filters

    async def _matching(self, found: VectorCollection, where: Condition, consistency: Consistency) -> list[str]:
        pages = self._pages(found, "", SCAN_PAGE, where, False, consistency)
        return [record.image_id async for records in pages for record in records]

    async def _ask(
        self, found: VectorCollection, vectors: Sequence[Vector], limit: int, among: Selection, wanted: Search
    ) -> list[list[Hit]]:
        search = partial(
            self._backend.search,
            metric=found.metric,
            index_type=found.index.type,
            parameters=wanted.parameters or {},
            with_vectors=wanted.with_vectors,
            consistency=wanted.consistency,
        )
        hits: list[list[Hit]] = await self.catalog.on(found, search, vectors, limit, among)
        return hits

    async def _scan(self, found: VectorCollection, vectors: Sequence[Vector], wanted: Search) -> list[list[Hit]]:
        """Compares every vector, a page at a time, keeping the best of each query."""
        queries = np.stack(vectors)
        best: list[list[Hit]] = [[] for _ in vectors]
        async for records in self._pages(found, "", SCAN_PAGE, wanted.where, True, wanted.consistency):
            if not records:
                continue
            scores = queries @ np.array([record.vector for record in records]).T
            for kept, record_scores in zip(best, scores, strict=True):
                for record, score in zip(records, record_scores, strict=True):
                    vector = record.vector if wanted.with_vectors else None
                    kept.append(Hit(record.image_id, float(score), record.attributes, vector))
                kept.sort(key=lambda each: each.place)
                del kept[wanted.top_k :]
        return best


def _tied_at_cut(hits: list[Hit], top_k: int, limit: int) -> bool:
    return len(hits) == limit > top_k and hits[top_k - 1].score - hits[-1].score < TIE


def _checked(vector: Vector | None, dim: int, field: str) -> Vector:
    """The vector scaled to length 1. Raises InvalidField for a wrong length, no length, or what is no number."""
    if vector is None or len(vector) != dim:
        raise InvalidField(field, f"must have {dim} components, got {0 if vector is None else len(vector)}")
    wide = vector.astype(np.float64)  # squares of legal components may be beyond the range of 32 bits
    norm = float(np.linalg.norm(wide))
    if not np.isfinite(norm) or norm == 0:
        raise InvalidField(field, "must be finite and not all zero")
    return (wide / norm).astype(np.float32) if abs(norm - 1) > 1e-5 else vector
