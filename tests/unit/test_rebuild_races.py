"""Writes and deletes while a collection is re-embedded, in thousands of random interleavings.

The callers follow the gateway's protocol: bytes before vectors, vectors deleted before bytes, a write that is told of a
next generation goes there too before it is acknowledged, and one that meets another model is made again with that.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import structlog

from gateway.maintenance.reembedder import SETTLE_SECONDS
from services.common.errors import InvalidField, ModelMismatch
from services.common.fingerprint import Fingerprint
from services.retriever.catalog import SETTLED_SECONDS
from services.retriever.records import Consistency, Index, Metric, Record, VectorCollection
from services.retriever.store import VectorStore
from tests.unit import virtual_time
from tests.unit.memory_backend import MemoryBackend

# Of each number of retrievers. Each has some twenty writes and deletes in it; more by the environment.
INTERLEAVINGS = int(os.environ.get("WENTU_INTERLEAVINGS", "500"))
COLLECTION = "k"
MODELS = [Fingerprint(name, 4, name * 64, 1) for name in "abc"]
DELETED = ""
VECTOR = np.array([1, 0, 0, 0], np.float32)


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


class Library:
    """The bytes of images, and callers who write them and their vectors."""

    def __init__(self, seed: int, retrievers: int) -> None:
        self.rng = random.Random(seed)
        self.backend = MemoryBackend(self.rng)
        self.stores = [VectorStore(self.backend) for _ in range(retrievers)]
        self.bytes: dict[str, str] = {}
        # What a caller was told of each image: the checksum of its bytes, or DELETED. One that failed is not here.
        self.acknowledged: dict[str, str] = {}
        self.copying = False

    @property
    def store(self) -> VectorStore:
        """Any: calls are balanced over the retrievers."""
        return self.rng.choice(self.stores)

    async def run(self) -> None:
        await self.store.catalog.create(VectorCollection(COLLECTION, MODELS[0], Metric.INNER_PRODUCT, Index("FLAT")))
        await asyncio.gather(self.calls("x"), self.calls("y"), self.reembeds(), self.aborts())

    async def calls(self, caller: str) -> None:
        """One that writes and deletes images of its own, one after the other."""
        for step in range(8):
            image_id = f"{caller}{self.rng.randrange(2)}"
            await asyncio.sleep(self.rng.uniform(0, SETTLED_SECONDS))
            self.acknowledged.pop(image_id, None)
            try:
                if self.rng.random() < 0.3:
                    await self.delete(image_id)
                else:
                    await self.write(image_id, f"{step:064x}")
            except ModelMismatch:
                pass  # not acknowledged: the models changed twice meanwhile

    async def write(self, image_id: str, sha256: str) -> None:
        try:
            await self.write_once(image_id, sha256, (await self.store.catalog.get(COLLECTION)).model)
        except ModelMismatch:
            await self.write_once(image_id, sha256, (await self.store.catalog.fresh(COLLECTION)).model)
        self.acknowledged[image_id] = sha256

    async def write_once(self, image_id: str, sha256: str, model: Fingerprint) -> None:
        await self.backend.pause()
        self.bytes[image_id] = sha256
        answer = await self.upsert({image_id: sha256}, model)
        if answer.rebuild is not None:
            await self.backend.pause()
            await self.upsert({image_id: sha256}, answer.rebuild.model)

    async def upsert(self, images: dict[str, str], model: Fingerprint) -> VectorCollection:
        records = [Record(image_id, VECTOR, {}, sha256) for image_id, sha256 in images.items()]
        return await self.store.upsert(COLLECTION, model, records)

    async def delete(self, image_id: str) -> None:
        await self.store.delete(COLLECTION, [image_id])
        self.bytes.pop(image_id, None)
        self.acknowledged[image_id] = DELETED

    async def reembeds(self) -> None:
        for model in MODELS[1 : self.rng.randint(2, 3)]:
            await asyncio.sleep(self.rng.uniform(0, 3))
            try:
                await self.store.catalog.begin_rebuild(COLLECTION, model, None)
                while await self.copies(model):  # noqa: ASYNC110, no event says when a delete is over
                    await asyncio.sleep(SETTLE_SECONDS)
                await self.stores[0].catalog.commit_rebuild(COLLECTION)
            except (InvalidField, ModelMismatch):
                pass  # it was aborted

    async def copies(self, model: Fingerprint) -> bool:
        """Whether anything differed from the bytes and was brought in line."""
        wanted = dict(self.bytes)
        there = await self.store.page(COLLECTION, "", 1000, None, False, Consistency.STRONG, rebuild=True)
        made = {each.image_id: each.content_sha256 for each in there}
        differing = sorted(each for each in wanted.keys() | made.keys() if wanted.get(each) != made.get(each))
        if not differing:
            return False
        records = await self.store.fetch(COLLECTION, differing, False, Consistency.STRONG, rebuild=True)
        await self.backend.pause()
        bytes_now = dict(self.bytes)
        if gone := [each.image_id for each in records if each.image_id not in bytes_now]:
            await self.store.delete(COLLECTION, gone, rebuild_only=True)
        if stale := {each: bytes_now[each] for each in differing if each in bytes_now}:
            await self.backend.pause()
            await self.upsert(stale, model)
        return True

    async def aborts(self) -> None:
        for _ in range(self.rng.randrange(2)):
            await asyncio.sleep(self.rng.uniform(0, 3 * SETTLED_SECONDS))
            # By the retriever that commits: only one has a lock between the two.
            await self.stores[0].catalog.abort_rebuild(COLLECTION)

    def faults(self) -> list[str]:
        serving = self.backend.tables[self.backend.aliases[COLLECTION]]
        found = {image_id: record.content_sha256 for image_id, record in serving.items()}
        return [
            f"{image_id}: {found.get(image_id, 'missing')[-3:]} and not {wanted[-3:] or 'deleted'}"
            for image_id, wanted in self.acknowledged.items()
            if found.get(image_id, DELETED) != wanted
        ]


@pytest.mark.parametrize("retrievers", [1, 2])
def test_what_is_acknowledged_serves_whatever_is_re_embedded_meanwhile(retrievers: int) -> None:
    wrong = {}
    for seed in range(INTERLEAVINGS):
        library = Library(seed, retrievers)
        virtual_time.run(library.run())
        if faults := library.faults():
            wrong[seed] = faults
    assert not wrong
