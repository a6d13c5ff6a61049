"""Which collections there are, and which of Milvus's collections stand behind them.

A collection's id is an alias in Milvus. Behind it stands the current generation, and while it is re-embedded the next
one beside it. Each carries its settings as a property of its own, so nothing can drift from it, and whatever stops in
between, the properties and the alias say where things stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import structlog

from services.common.errors import CollectionExists, CollectionNotFound, ModelMismatch
from services.common.fingerprint import Fingerprint
from services.retriever.milvus import Milvus, NoSuchCollection, NotLoaded
from services.retriever.records import UNKNOWN, Index, Precision, VectorCollection

log = structlog.get_logger()

# The physical name has a capital letter, which no id has.
_PHYSICAL = re.compile(r"([a-z][a-z0-9_]{0,62})_G[0-9a-f]{8}")
# How long another retriever may go on with what it knew of a collection.
SETTINGS_SECONDS = 2.0
# After so long every retriever has seen a change, and has done with what it began before.
SETTLED_SECONDS = 2 * SETTINGS_SECONDS


class Catalog:
    """The collections of one Milvus, with their settings at hand."""

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus
        self._known: dict[str, tuple[float, VectorCollection]] = {}

    async def get(self, collection: str, fresh: bool = False) -> VectorCollection:
        """Raises CollectionNotFound."""
        known = self._known.get(collection)
        if not fresh and known and time.monotonic() - known[0] < SETTINGS_SECONDS:
            return known[1]
        self._known.pop(collection, None)
        found = await self._find(collection, await self._milvus.collections())
        self._known[collection] = (time.monotonic(), found)
        return found

    async def page(self, after: str, size: int) -> tuple[list[VectorCollection], str]:
        """The collections with the `size` smallest ids after `after`; and the last id, where more follow."""
        names = await self._milvus.collections()
        ids = sorted({match.group(1) for match in map(_PHYSICAL.fullmatch, names) if match and match.group(1) > after})
        found = []
        for each in ids[:size]:
            with contextlib.suppress(CollectionNotFound):  # it goes or comes right now
                found.append(await self._find(each, names))
        return found, ids[size - 1] if len(ids) > size else ""

    async def guarded(
        self, collection: str, model: Fingerprint, writing: bool = False, precision: str = ""
    ) -> VectorCollection:
        """The generation whose vectors `model` makes; only the current one, unless for `writing`.

        Raises CollectionNotFound, ModelMismatch; PrecisionMismatch if the collection is strict and the vectors are of
        another `precision`.
        """
        for fresh in (False, True):  # it may have been re-embedded a moment ago
            found = await self.get(collection, fresh)
            if found.model.fits(model):
                return found.checked(precision)
            if writing and found.rebuild is not None and found.rebuild.model.fits(model):
                return found.rebuild.checked(precision)
        raise ModelMismatch(collection, str(found.model), str(model))

    async def create(self, wanted: VectorCollection) -> VectorCollection:
        """Raises CollectionExists."""
        try:
            await self._milvus.describe(wanted.id)
        except NoSuchCollection:
            pass
        else:
            raise CollectionExists(wanted.id)
        made = await self._make(wanted)
        try:
            await self._milvus.create_alias(made.physical, made.id)
        except Exception:
            await self._milvus.drop(made.physical)  # somebody else was faster, or Milvus is in trouble
            await self._current(made.id)
            raise CollectionExists(made.id) from None
        return await self.get(made.id)

    async def drop(self, collection: str) -> bool:
        """Whether there was one. The alias goes first: from then on nobody finds the collection."""
        self._known.pop(collection, None)
        try:
            await self._current(collection)
        except CollectionNotFound:
            found = False
        else:
            found = True
            await self._milvus.drop_alias(collection)
        for physical in await self._physical(collection):  # of an earlier drop that was interrupted too
            await self._milvus.drop(physical)
        return found

    async def begin_rebuild(
        self, collection: str, model: Fingerprint, index: Index | None, precision: Precision = UNKNOWN
    ) -> VectorCollection:
        """With an empty next generation for `model`, or with the one that was begun before and is not committed.

        Returns once every retriever writes to both.
        """
        found = await self.get(collection, fresh=True)
        if found.model.fits(model):
            return found
        if found.rebuild is None or not found.rebuild.model.fits(model):
            await self._drop_others(found)
            await self._make(
                replace(
                    found,
                    model=model,
                    precision=replace(precision, strict=found.precision.strict),
                    index=index or found.index,
                    generation=found.generation + 1,
                    rebuild=None,
                )
            )
            found = await self.get(collection, fresh=True)
        await asyncio.sleep(SETTLED_SECONDS)
        return found

    async def commit_rebuild(self, collection: str) -> VectorCollection:
        """With the next generation in the place of the current one, which is dropped once nobody can be at it."""
        found = await self.get(collection, fresh=True)
        if found.rebuild is not None:
            await self._milvus.move_alias(found.rebuild.physical, collection)
            log.info("re-embedded", collection=collection, model=str(found.rebuild.model))
            found = await self.get(collection, fresh=True)
            await asyncio.sleep(SETTLED_SECONDS)
        await self._drop_others(found)
        return found

    async def abort_rebuild(self, collection: str) -> VectorCollection:
        """Without a next generation."""
        await self._drop_others(await self.get(collection, fresh=True))
        return await self.get(collection, fresh=True)

    async def on(self, found: VectorCollection, operation: Any, *args: Any) -> Any:
        """An operation of Milvus on a generation. Where that is gone, so is what is known of its settings."""
        try:
            try:
                return await operation(found.physical, *args)
            except NotLoaded:
                await self._milvus.load(found.physical)
                return await operation(found.physical, *args)
        except NoSuchCollection:
            self._known.pop(found.id, None)
            raise CollectionNotFound(found.id) from None

    async def _find(self, collection: str, names: Sequence[str]) -> VectorCollection:
        """The current generation, with the next one where there is one among Milvus's collections `names`."""
        found = await self._current(collection)
        others = [name for name in names if _is_of(name, collection) and name != found.physical]
        generations = [await self._settings(name) for name in others]
        following = [each for each in generations if each is not None and each.follows(found)]
        if following:  # of two that were begun at once, all retrievers take the same
            found = replace(found, rebuild=min(following, key=lambda each: each.physical))
        return found

    async def _make(self, wanted: VectorCollection) -> VectorCollection:
        made = replace(wanted, physical=f"{wanted.id}_G{secrets.token_hex(4)}")
        await self._milvus.create(made.physical, made.model.dim, made.metric, made.index, made.to_json())
        return made

    async def _drop_others(self, found: VectorCollection) -> None:
        for physical in await self._physical(found.id):
            if physical != found.physical:
                await self._milvus.drop(physical)

    async def _physical(self, collection: str) -> list[str]:
        return [name for name in await self._milvus.collections() if _is_of(name, collection)]

    async def _current(self, collection: str) -> VectorCollection:
        found = await self._settings(collection)
        if found is None:
            raise CollectionNotFound(collection)
        return found

    async def _settings(self, name: str) -> VectorCollection | None:
        """What stands behind a name or an alias; None where nothing does, or somebody else's collection."""
        try:
            physical, settings = await self._milvus.describe(name)
        except NoSuchCollection:
            return None
        match = _PHYSICAL.fullmatch(physical)
        return VectorCollection.from_json(match.group(1), physical, settings) if match and settings else None


def _is_of(physical: str, collection: str) -> bool:
    match = _PHYSICAL.fullmatch(physical)
    return match is not None and match.group(1) == collection
