"""Which collections there are, and which of the backend's collections stand behind them.

A collection's id is an alias in the backend. Behind it stands the current generation, and while it is re-embedded the
next one beside it. Each carries its settings as a property of its own, so nothing can drift from it, and whatever stops
in between, the properties and the alias say where things stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog

from services.common.calls import incoming, request_id
from services.common.errors import CollectionExists, CollectionNotFound, ModelMismatch, UpstreamUnavailable
from services.common.fingerprint import Fingerprint
from services.common.ids import COLLECTION_PATTERN
from services.retriever.backend import NoSuchCollection, NotLoaded, VectorBackend
from services.retriever.records import UNKNOWN, Index, Precision, VectorCollection

log = structlog.get_logger()
Result = TypeVar("Result")

# The physical name has a capital letter, which no id has.
_PHYSICAL = re.compile(rf"({COLLECTION_PATTERN.pattern})_G[0-9a-f]{{8}}")
# How long a read may go on with what this retriever knew of a collection. Writes look again after they are done.
SETTINGS_SECONDS = 2.0
# After so long every retriever has seen a change, and has done with what it began before.
SETTLED_SECONDS = 2 * SETTINGS_SECONDS
# A first generation that has no alias for so long was left by a creation that was killed: no creation takes longer.
ABANDONED_SECONDS = 600


class GenerationGone(CollectionNotFound):
    """A generation was dropped; the collection may have another."""


class Catalog:
    """The collections of one backend, with their settings at hand."""

    def __init__(self, backend: VectorBackend) -> None:
        self._backend = backend
        self._known: dict[str, tuple[float, VectorCollection]] = {}
        # Settings of generations by physical name. They never change.
        self._generations: dict[str, VectorCollection] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changes: set[asyncio.Task[Any]] = set()

    async def get(self, collection: str) -> VectorCollection:
        """As it was at most SETTINGS_SECONDS ago. Raises CollectionNotFound."""
        known = self._known.get(collection)
        if known and asyncio.get_running_loop().time() - known[0] < SETTINGS_SECONDS:
            return known[1]
        return await self.fresh(collection)

    async def fresh(self, collection: str) -> VectorCollection:
        """As it is now. Raises CollectionNotFound.

        Of the two reads, either may come first: a generation that begins between them is copied after that, from bytes
        that were stored before.
        """
        self._known.pop(collection, None)
        asked = asyncio.get_running_loop().time()
        names, current = await asyncio.gather(self._backend.collections(), self._current(collection))
        found = await self._with_next(current, names)
        if len(self._generations) > len(names):
            self._generations = {name: self._generations[name] for name in names if name in self._generations}
        self._known[collection] = (asked, found)
        return found

    async def page(self, after: str, size: int) -> tuple[list[VectorCollection], str]:
        """The collections with the `size` smallest ids after `after`; and the last id, where more follow."""
        names = await self._backend.collections()
        ids = sorted({each for each in map(_id_of, names) if each is not None and each > after})
        found = []
        for each in ids[:size]:
            with contextlib.suppress(CollectionNotFound):  # it goes or comes right now
                found.append(await self._with_next(await self._current(each), names))
        return found, ids[size - 1] if len(ids) > size else ""

    async def guarded(
        self, collection: str, model: Fingerprint, writing: bool = False, precision: str = ""
    ) -> VectorCollection:
        """The generation whose vectors `model` makes; only the current one, unless for `writing`.

        Raises CollectionNotFound, ModelMismatch; PrecisionMismatch if the collection is strict and the vectors are of
        another `precision`.
        """
        for read in (self.get, self.fresh):  # it may have been re-embedded a moment ago
            found = await read(collection)
            for each in found.generations if writing else (found,):
                if each.model.fits(model):
                    return each.checked(precision)
        raise ModelMismatch(collection, str(found.model), str(model))

    async def create(self, wanted: VectorCollection) -> VectorCollection:
        """Raises CollectionExists."""
        return await self._changing(wanted.id, lambda: self._create(wanted))

    async def drop(self, collection: str) -> VectorCollection | None:
        """What there was. The alias goes first: from then on nobody finds the collection."""
        return await self._changing(collection, lambda: self._drop(collection))

    async def begin_rebuild(
        self, collection: str, model: Fingerprint, index: Index | None, precision: Precision = UNKNOWN
    ) -> VectorCollection:
        """With an empty next generation for `model`, or with the one that was begun before and is not committed.

        Returns once every retriever knows of it.
        """
        found = await self._changing(collection, lambda: self._begin(collection, model, index, precision))
        if not found.model.fits(model):
            await asyncio.sleep(SETTLED_SECONDS)
        return found

    async def commit_rebuild(self, collection: str) -> VectorCollection:
        """With the next generation in the place of the current one, which is dropped once nobody can be at it."""
        moved, found = await self._changing(collection, lambda: self._commit(collection))
        if moved:
            log.info("re-embedded", collection=collection, model=str(found.model))
            await asyncio.sleep(SETTLED_SECONDS)
        await self._changing(collection, lambda: self._drop_generations(found, lambda each: each.precedes(found)))
        return found

    async def abort_rebuild(self, collection: str) -> VectorCollection:
        """Without a next generation."""
        return await self._changing(collection, lambda: self._abort(collection))

    async def remove_abandoned(self) -> None:
        """Drops what creations and drops that were killed have left."""
        names = await self._backend.collections()
        for each in sorted({each for each in map(_id_of, names) if each is not None}):
            try:
                await self._current(each)
            except CollectionNotFound:
                await self._changing(each, partial(self._drop_abandoned, each))

    async def on(self, found: VectorCollection, operation: Any, *args: Any) -> Any:
        """An operation of the backend on a generation. Raises GenerationGone."""
        try:
            try:
                return await operation(found.physical, *args)
            except NotLoaded:
                await self._backend.load(found.physical)
                return await operation(found.physical, *args)
        except NoSuchCollection:
            self._known.pop(found.id, None)
            raise GenerationGone(found.id) from None

    async def close(self) -> None:
        """Returns once every change that was begun is done."""
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def _changing(self, collection: str, change: Callable[[], Awaitable[Result]]) -> Result:
        """Runs a change of several steps to its end, even if the caller waits no more; one at a time per collection.

        A change that ended in the middle would leave physical collections that nobody finds.
        """
        lock = self._locks.setdefault(collection, asyncio.Lock())

        async def whole() -> Result:
            with incoming(request_id(), None):
                async with lock:
                    self._known.pop(collection, None)
                    return await change()

        task = asyncio.create_task(whole(), name="change")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _create(self, wanted: VectorCollection) -> VectorCollection:
        if await self._exists(wanted.id):
            raise CollectionExists(wanted.id)
        await self._drop_abandoned(wanted.id)
        made = await self._make(wanted)
        try:
            await self._backend.create_alias(made.physical, made.id)
        except Exception as error:
            await self._backend.drop(made.physical)  # another retriever was faster, or the backend is in trouble
            if await self._exists(made.id):
                raise CollectionExists(made.id) from None
            if isinstance(error, NoSuchCollection):
                raise UpstreamUnavailable(self._backend.kind, "the new collection was dropped meanwhile") from None
            raise
        return made

    async def _drop(self, collection: str) -> VectorCollection | None:
        try:
            found = await self.fresh(collection)
        except CollectionNotFound:
            await self._drop_abandoned(collection)
            return None
        self._known.pop(collection, None)
        with contextlib.suppress(NoSuchCollection):
            await self._backend.drop_alias(collection)
        await self._drop_generations(found, lambda each: True)
        await self._drop_abandoned(collection)
        return found

    async def _begin(
        self, collection: str, model: Fingerprint, index: Index | None, precision: Precision
    ) -> VectorCollection:
        found = await self.fresh(collection)
        if any(each.model.fits(model) for each in found.generations):
            return found
        await self._drop_next(found)
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
        return await self.fresh(collection)

    async def _commit(self, collection: str) -> tuple[bool, VectorCollection]:
        """Whether the alias was moved, and the collection after that."""
        found = await self.fresh(collection)
        if found.rebuild is None:
            return False, found
        try:
            await self._backend.move_alias(found.rebuild.physical, collection)
        except NoSuchCollection:  # another retriever has aborted the rebuild, or dropped the collection
            return False, await self.fresh(collection)
        return True, await self.fresh(collection)

    async def _abort(self, collection: str) -> VectorCollection:
        found = await self.fresh(collection)
        await self._drop_next(found)
        return await self.fresh(collection)

    async def _drop_next(self, found: VectorCollection) -> None:
        """Drops the generations after the current one.

        Another retriever may commit one at this moment, and a server drops what has an alias, with the alias: so each
        is looked at right before, and the alias is put back if it went all the same.
        """
        for each in await self._all_generations(found.id, await self._backend.collections()):
            if each.create_time == found.create_time and found.precedes(each):
                if (await self._current(found.id)).physical == each.physical:
                    return
                await self._backend.drop(each.physical)
        if not await self._exists(found.id):
            log.warning("alias", collection=found.id, problem="a commit met an abort; the old generation serves")
            await self._backend.create_alias(found.physical, found.id)

    async def _drop_generations(self, found: VectorCollection, chosen: Callable[[VectorCollection], bool]) -> None:
        """Drops those of the collection's generations that are `chosen`; none of a later collection of its name."""
        for each in await self._all_generations(found.id, await self._backend.collections()):
            if each.creation_id == found.creation_id and chosen(each):
                await self._backend.drop(each.physical)

    async def _drop_abandoned(self, collection: str) -> None:
        """Drops the generations of a collection that has no alias, but for a first one that is being made right now."""
        limit = time.time() - ABANDONED_SECONDS
        for each in await self._all_generations(collection, await self._backend.collections()):
            if each.generation or each.create_time < limit:
                log.info("abandoned", physical=each.physical)
                await self._backend.drop(each.physical)

    async def _make(self, wanted: VectorCollection) -> VectorCollection:
        made = replace(wanted, physical=f"{wanted.id}_G{secrets.token_hex(4)}")
        try:
            await self._backend.create(made.physical, made.model.dim, made.metric, made.index, made.to_json())
        except Exception:
            with contextlib.suppress(Exception):  # it may be there in part
                await self._backend.drop(made.physical)
            raise
        return made

    async def _exists(self, collection: str) -> bool:
        try:
            await self._backend.describe(collection)
        except NoSuchCollection:
            return False
        return True

    async def _current(self, collection: str) -> VectorCollection:
        found = await self._generation(collection)
        if found is None:
            raise CollectionNotFound(collection)
        return found

    async def _with_next(self, found: VectorCollection, names: Iterable[str]) -> VectorCollection:
        """The current generation with the next one, if there is one among the backend's collections `names`."""
        following = [each for each in await self._all_generations(found.id, names) if each.follows(found)]
        # Of two that were begun at once, all retrievers take the same.
        return replace(found, rebuild=min(following, key=lambda each: each.physical)) if following else found

    async def _all_generations(self, collection: str, names: Iterable[str]) -> list[VectorCollection]:
        found = []
        for name in names:
            if _id_of(name) == collection:
                generation = self._generations.get(name) or await self._generation(name)
                if generation is not None:
                    found.append(generation)
        return found

    async def _generation(self, name: str) -> VectorCollection | None:
        """What stands behind a name or an alias; None if nothing does, or somebody else's collection."""
        try:
            physical, settings = await self._backend.describe(name)
        except NoSuchCollection:
            return None
        if (collection := _id_of(physical)) is None or not settings:
            return None
        if physical not in self._generations:
            self._generations[physical] = VectorCollection.from_json(collection, physical, settings)
        return self._generations[physical]


def _id_of(physical: str) -> str | None:
    match = _PHYSICAL.fullmatch(physical)
    return match.group(1) if match else None
