"""The vector store: collections of vectors with attributes, under the model guard."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog

from services.common.errors import CollectionExists, CollectionNotFound, InvalidField, ModelMismatch
from services.common.fingerprint import Fingerprint
from services.retriever.flushing import IdleFlush
from services.retriever.milvus import ATTRIBUTES, KEY, MAX_TOP_K, VECTOR, Milvus, NoSuchCollection, NotLoaded, any_of
from services.retriever.records import Attributes, Consistency, Hit, Index, Metric, Record, Vector, VectorCollection

log = structlog.get_logger()

# Collections are reached by an alias, their id; the physical name has a capital letter, which no id has.
_PHYSICAL = re.compile(r"([a-z][a-z0-9_]{0,62})_G[0-9a-f]{8}")
# Settings never change under one physical name; the alias may move to another one.
SETTINGS_SECONDS = 2.0
SCAN_PAGE = 1000
TIE = 1e-6


class StoreDisagrees(Exception):
    """The connected Milvus does not compute what this service relies on."""


class VectorStore:
    """All operations of the retriever over one Milvus."""

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus
        self._known: dict[str, tuple[float, VectorCollection]] = {}
        self.kind = "milvus-lite" if milvus.is_lite else "milvus"
        self._idle_flush = IdleFlush(milvus.flush) if milvus.is_lite else None

    @property
    def default_index(self) -> Index:
        """FLAT on Lite, whose HNSW is slower than its FLAT; HNSW on a server."""
        return Index("FLAT") if self._milvus.is_lite else Index("HNSW", {"M": 16, "efConstruction": 200})

    async def version(self) -> str:
        return await self._milvus.version()

    async def create(self, wanted: VectorCollection) -> VectorCollection:
        """Raises CollectionExists."""
        try:
            await self._milvus.describe(wanted.id)
        except NoSuchCollection:
            pass
        else:
            raise CollectionExists(wanted.id)
        made = wanted.at(f"{wanted.id}_G{secrets.token_hex(4)}")
        await self._milvus.create(made.physical, made.model.dim, made.metric, made.index, made.to_json())
        try:
            await self._milvus.create_alias(made.physical, made.id)
        except Exception:
            await self._milvus.drop(made.physical)  # somebody else was faster, or Milvus is in trouble
            await self._describe(made.id)
            raise CollectionExists(made.id) from None
        return await self.get(made.id)

    async def get(self, collection: str) -> VectorCollection:
        """Raises CollectionNotFound."""
        known = self._known.get(collection)
        if known and time.monotonic() - known[0] < SETTINGS_SECONDS:
            return known[1]
        found = await self._describe(collection)
        self._known[collection] = (time.monotonic(), found)
        return found

    async def collections(self, after: str, size: int) -> list[VectorCollection]:
        """The `size` collections whose ids come after `after`."""
        matches = map(_PHYSICAL.fullmatch, await self._milvus.collections())
        ids = sorted({match.group(1) for match in matches if match})
        page: list[VectorCollection] = []
        for collection in ids:
            if collection > after and len(page) < size:
                try:
                    page.append(await self._describe(collection))
                except CollectionNotFound:
                    continue  # it goes or comes right now
        return page

    async def drop(self, collection: str) -> bool:
        """Whether there was one. The alias goes first: from then on nobody finds the collection."""
        try:
            found = await self._describe(collection)
        except CollectionNotFound:
            return False
        self._known.pop(collection, None)
        await self._milvus.drop_alias(collection)
        await self._milvus.drop(found.physical)
        return True

    async def count(self, collection: str, consistency: Consistency) -> int:
        return int(await self._on(await self.get(collection), self._milvus.count, consistency.value))

    async def upsert(self, collection: str, model: Fingerprint, records: Sequence[Record]) -> None:
        """Adds or replaces. Raises CollectionNotFound, ModelMismatch, InvalidField."""
        found = await self._guarded(collection, model)
        rows = []
        for place, record in enumerate(records):
            vector = _checked(record.vector, found.model.dim, f"records[{place}].embedding")
            rows.append({KEY: record.image_id, VECTOR: vector, ATTRIBUTES: dict(record.attributes)})
        await self._on(found, self._milvus.upsert, rows)
        if self._idle_flush is not None:
            self._idle_flush.wrote(found.physical, len(rows))

    async def delete(self, collection: str, image_ids: Sequence[str]) -> None:
        await self._on(await self.get(collection), self._milvus.delete, any_of(image_ids))

    async def fetch(
        self, collection: str, image_ids: Sequence[str], with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        """Those of `image_ids` that are there, in their order."""
        found = await self.get(collection)
        rows = await self._on(found, self._milvus.query, any_of(image_ids), _fields(with_vectors), consistency.value)
        by_id = {row[KEY]: row for row in rows}
        return [_record(by_id[image_id], with_vectors) for image_id in image_ids if image_id in by_id]

    async def page(
        self, collection: str, after: str, size: int, with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        """The records with the `size` smallest ids after `after`."""
        found = await self.get(collection)
        rows = await self._on(found, self._milvus.page, after, size, _fields(with_vectors), consistency.value)
        return [_record(row, with_vectors) for row in rows]

    async def search(
        self,
        collection: str,
        model: Fingerprint,
        queries: Sequence[Vector],
        top_k: int,
        *,
        parameters: dict[str, int],
        exact: bool,
        with_vectors: bool,
        consistency: Consistency,
    ) -> list[list[Hit]]:
        """The `top_k` nearest of each query, best first, ties by id.

        Raises CollectionNotFound, ModelMismatch, InvalidField.
        """
        found = await self._guarded(collection, model)
        vectors = [_checked(query, model.dim, f"queries[{place}]") for place, query in enumerate(queries)]
        if exact and found.index.type != "FLAT":
            return await self._scan(found, vectors, top_k, with_vectors, consistency)
        limit = min(top_k + 1, MAX_TOP_K)
        results = await self._ask(found, vectors, limit, parameters, with_vectors, consistency)
        for place, vector in enumerate(vectors):
            # One more than asked for was fetched. Where the cut goes through a tie, the ids must decide: fetch more.
            wider = limit
            while _tied_at_cut(results[place], top_k, wider) and wider < MAX_TOP_K:
                wider = min(wider * 2, MAX_TOP_K)
                [results[place]] = await self._ask(found, [vector], wider, parameters, with_vectors, consistency)
        return [sorted(hits, key=lambda hit: hit.place)[:top_k] for hits in results]

    async def _ask(
        self,
        found: VectorCollection,
        vectors: Sequence[Vector],
        limit: int,
        parameters: dict[str, int],
        with_vectors: bool,
        consistency: Consistency,
    ) -> list[list[Hit]]:
        fields = [ATTRIBUTES, VECTOR] if with_vectors else [ATTRIBUTES]
        chosen = search_parameters(found.index.type, parameters, limit)
        answers = await self._on(
            found, self._milvus.search, list(vectors), limit, found.metric, chosen, fields, consistency.value
        )
        return [[_hit(row, found.metric, with_vectors) for row in rows] for rows in answers]

    async def _scan(
        self,
        found: VectorCollection,
        vectors: Sequence[Vector],
        top_k: int,
        with_vectors: bool,
        consistency: Consistency,
    ) -> list[list[Hit]]:
        """Compares every vector, a page at a time, keeping the best of each query."""
        queries = np.stack(vectors)
        best: list[list[Hit]] = [[] for _ in vectors]
        after = ""
        while rows := await self._on(found, self._milvus.page, after, SCAN_PAGE, _fields(True), consistency.value):
            after = rows[-1][KEY]
            scores = queries @ np.array([row[VECTOR] for row in rows], dtype=np.float32).T
            for kept, row_scores in zip(best, scores, strict=True):
                kept.extend(
                    Hit(row[KEY], float(score), row[ATTRIBUTES], row[VECTOR] if with_vectors else None)
                    for row, score in zip(rows, row_scores, strict=True)
                )
                kept.sort(key=lambda hit: hit.place)
                del kept[top_k:]
        return best

    async def close(self) -> None:
        if self._idle_flush is not None:
            await self._idle_flush.close()

    async def check(self) -> None:
        """Passes where Milvus answers."""
        await self._milvus.collections()

    async def self_test(self) -> None:
        """Three known vectors must come back with the scores that they have. Raises StoreDisagrees."""
        name = f"selftest_G{secrets.token_hex(4)}"
        rows = {"same": [1.0, 0.0], "oblique": [0.6, 0.8], "opposite": [-1.0, 0.0]}
        await self._milvus.create(name, 2, Metric.INNER_PRODUCT, Index("FLAT"), {})
        try:
            await self._milvus.upsert(
                name, [{KEY: key, VECTOR: np.array(row, dtype=np.float32), ATTRIBUTES: {}} for key, row in rows.items()]
            )
            [answer] = await self._milvus.search(
                name,
                [np.array([1.0, 0.0], dtype=np.float32)],
                3,
                Metric.INNER_PRODUCT,
                {},
                [],
                Consistency.STRONG.value,
            )
        finally:
            await self._milvus.drop(name)
        scores = [(_key(row), round(float(row["distance"]), 4)) for row in answer]
        if scores != [("same", 1.0), ("oblique", 0.6), ("opposite", -1.0)]:
            raise StoreDisagrees(f"inner products of known vectors came back as {scores}")

    async def _describe(self, collection: str) -> VectorCollection:
        try:
            physical, settings = await self._milvus.describe(collection)
        except NoSuchCollection:
            raise CollectionNotFound(collection) from None
        if settings is None or not _PHYSICAL.fullmatch(physical):
            raise CollectionNotFound(collection)  # somebody else's collection on the same Milvus
        return VectorCollection.from_json(collection, physical, settings)

    async def _guarded(self, collection: str, model: Fingerprint) -> VectorCollection:
        found = await self.get(collection)
        if found.model != model:
            raise ModelMismatch(collection, str(found.model), str(model))
        return found

    async def _on(self, found: VectorCollection, operation: Any, *args: Any) -> Any:
        """An operation on the physical collection. Where that is gone, so is what is known of its settings."""
        try:
            try:
                return await operation(found.physical, *args)
            except NotLoaded:
                await self._milvus.load(found.physical)
                return await operation(found.physical, *args)
        except NoSuchCollection:
            self._known.pop(found.id, None)
            raise CollectionNotFound(found.id) from None


def search_parameters(index_type: str, given: dict[str, int], limit: int) -> dict[str, int]:
    """Those of Milvus's parameters that the index has, with defaults that favour recall."""
    if index_type == "HNSW":
        return {"ef": max(given.get("ef", max(128, 2 * limit)), limit)}
    if index_type in ("IVF_FLAT", "IVF_SQ8"):
        return {"nprobe": given.get("nprobe", 16)}
    if index_type == "DISKANN":
        return {"search_list": max(given.get("search_list", 100), limit)}
    return {}


def _tied_at_cut(hits: list[Hit], top_k: int, limit: int) -> bool:
    return len(hits) == limit > top_k and hits[top_k - 1].score - hits[-1].score < TIE


def _fields(with_vectors: bool) -> list[str]:
    return [KEY, ATTRIBUTES, VECTOR] if with_vectors else [KEY, ATTRIBUTES]


def _key(row: dict[str, Any]) -> str:
    return str(row["entity"].get(KEY) or row.get(KEY) or row["id"])


def _record(row: dict[str, Any], with_vectors: bool) -> Record:
    attributes: Attributes = row[ATTRIBUTES]
    return Record(row[KEY], np.array(row[VECTOR], dtype=np.float32) if with_vectors else None, attributes)


def _hit(row: dict[str, Any], metric: Metric, with_vectors: bool) -> Hit:
    value = float(row["distance"])
    score = 1.0 - value / 2.0 if metric is Metric.L2 else value
    entity = row["entity"]
    vector = np.array(entity[VECTOR], dtype=np.float32) if with_vectors else None
    return Hit(_key(row), score, entity[ATTRIBUTES], vector)


def _checked(vector: Vector | None, dim: int, field: str) -> Vector:
    """The vector scaled to length 1. Raises InvalidField for a wrong length, no length, or what is no number."""
    if vector is None or len(vector) != dim:
        raise InvalidField(field, f"must have {dim} components, got {0 if vector is None else len(vector)}")
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0:
        raise InvalidField(field, "must be finite and not all zero")
    return vector / np.float32(norm) if abs(norm - 1) > 1e-5 else vector
