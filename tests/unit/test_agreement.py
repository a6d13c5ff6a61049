"""Images, vectors and attributes are of one write, whoever writes and deletes at once, and wherever somebody stops."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gateway.collections import Collections
from gateway.images import Images
from gateway.ingest.importer import Importer
from gateway.maintenance import reconciler as reconciling
from gateway.maintenance import reembedder as reembedding
from gateway.maintenance.reconciler import Reconciler
from gateway.maintenance.reembedder import Reembedder
from gateway.metrics import GatewayMetrics
from gateway.precision import PrecisionNotes
from gateway.settings import GatewaySettings
from protos import admin_pb2, types_pb2
from protos import search_pb2 as pb
from services.common.errors import CollectionNotFound
from tests.unit.interleaving import Actor, Step, drive, run
from tests.unit.worlds import NEW, FakeClients, Generation, World, embedding

# Of each kind. The long form takes 20,000.
RUNS = int(os.environ.get("WENTU_TEST_INTERLEAVINGS", "600"))
SETTINGS = GatewaySettings()
NOTES = PrecisionNotes(GatewayMetrics(CollectorRegistry()))
IDS = ("a", "b")
Work = Coroutine[Any, Any, Any]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "SECOND_LOOK_SECONDS", 0)
    monkeypatch.setattr(reembedding, "SETTLE_SECONDS", 0)


def upload(image_id: str, content: str) -> types_pb2.ImageUpload:
    message = types_pb2.ImageUpload(image_id=image_id, data=content.encode())
    message.attributes.update({"written by": content})
    return message


async def add(clients: FakeClients, image_ids: Sequence[str], content: str) -> None:
    """As AddImage does it. Raises what it refuses."""

    async def once(creation_id: str) -> None:
        importer = Importer(clients, SETTINGS, "c", creation_id, types_pb2.IF_EXISTS_REPLACE, NOTES, clients.look_after)
        for outcome in await importer.add([upload(image_id, content) for image_id in image_ids]):
            if outcome.error is not None:
                raise outcome.error

    await clients.collections.on_creation("c", once)


async def stream(clients: FakeClients, batches: int, content: str) -> list[str]:
    """As AddImages does it; the ids that were acknowledged. They carry the creation that they were meant for."""
    found = await clients.collections.get("c", fresh=True)
    content = f"{found.creation_id} {content}"
    importer = Importer(
        clients, SETTINGS, "c", found.creation_id, types_pb2.IF_EXISTS_REPLACE, NOTES, clients.look_after
    )
    done = []
    for number in range(batches):
        uploads = [upload(f"{content} {number}", content), upload(f"{content} {number} twin", content)]
        outcomes = await importer.add(uploads)
        done += [each.image_id for each, outcome in zip(uploads, outcomes, strict=True) if outcome.error is None]
    return done


def test_vectors_are_looked_after_if_their_writer_stops_before_its_look() -> None:
    world = World(random.Random(0))
    world.create("c")
    told: list[tuple[str, Sequence[str]]] = []
    steps = 0
    while True:
        clients = FakeClients(world)
        clients.look_after = lambda collection, image_ids: told.append((collection, image_ids))
        work = add(clients, ["a"], f"content {steps}")
        try:
            for _ in range(steps):
                work.send(None)
        except StopIteration:
            break
        before = told.copy()
        rows = world.images.get(world.collection("c").creation_id, {}).values()
        work.close()  # as a call that is cancelled
        if f"content {steps}".encode() in [row.data for row in rows]:
            assert told != before, steps
        steps += 1
    assert steps > 5
    assert told[0] == ("c", ["a"])


async def delete(clients: FakeClients, image_ids: Sequence[str]) -> None:
    request = pb.DeleteImagesRequest(collection="c", ids=pb.ImageIdList(image_ids=image_ids))
    await Images(clients, SETTINGS, clients.look_after).delete(request)


async def reconcile(clients: FakeClients, dry_run: bool = False) -> list[admin_pb2.ReconcileResponse]:
    request = admin_pb2.ReconcileRequest(collection="c", dry_run=dry_run)
    answers = [answer async for answer in Reconciler(clients, SETTINGS).run(request)]
    return [answer for answer in answers if answer.image_id or answer.leftover_count]


async def reembed(clients: FakeClients) -> None:
    async for _ in Reembedder(clients, SETTINGS).run(admin_pb2.ReembedRequest(collection="c")):
        pass


async def abort(clients: FakeClients) -> None:
    """As the retriever gives a rebuild up."""
    for _ in range(clients.world.rng.randrange(30)):
        await Step()
    clients.world.collection("c").rebuild = None


def differences(world: World) -> list[str]:
    """Ids whose bytes, vector and attributes are not of one write."""
    found = world.collection("c")
    rows = world.images.get(found.creation_id, {})
    return sorted(
        image_id
        for generation in (found.current, found.rebuild or Generation(NEW))
        for image_id in rows.keys() | generation.vectors.keys()
        if (generation is found.current or image_id in generation.vectors) and not agrees(rows, generation, image_id)
    )


def agrees(rows: Any, generation: Generation, image_id: str) -> bool:
    row, vector = rows.get(image_id), generation.vectors.get(image_id)
    if row is None or vector is None:
        return row is None and vector is None
    made = list(vector.embedding.values) == embedding(generation.model, row.data)
    return made and vector.content_sha256 == row.sha256 and vector.attributes == row.attributes


def lost(world: World, actors: Sequence[Actor]) -> list[str]:
    """Ids that are as no acknowledged write or deletion left them: one began after all that can have made them so."""
    rows = world.images.get(world.collection("c").creation_id, {})
    wrong = []
    for image_id in IDS:
        mine = [actor for actor in actors if image_id in actor.name.rpartition(":")[2] and actor.started]
        last = max((actor.started or 0 for actor in mine if actor.acknowledged), default=0)
        content = rows[image_id].data.decode() if image_id in rows else "delete"
        makers = [actor for actor in mine if actor.name.startswith(content)]
        if last and not any(not actor.acknowledged or (actor.ended or 0) >= last for actor in makers):
            wrong.append(image_id)
    return wrong


def writers(world: World, rng: random.Random, count: int) -> list[Actor]:
    """Adds and deletions of the same ids, through gateways of their own; some one after the other."""
    actors: list[Actor] = []
    for number in range(count):
        image_ids = rng.choice((IDS[:1], IDS[:1], IDS))
        kind = rng.choice(("add", "add", "delete"))
        name = f"{kind}:{number}:{''.join(image_ids)}"
        client = FakeClients(world)
        work = add(client, image_ids, name) if kind == "add" else delete(client, image_ids)
        after = rng.choice(actors) if actors and rng.random() < 0.2 else None
        actors.append(Actor(name, work, after))
    return actors


def helpers(world: World, rng: random.Random, *chances: tuple[float, Callable[[FakeClients], Work]]) -> list[Actor]:
    chosen = [work for chance, work in chances if rng.random() < chance]
    return [Actor("helper:", work(FakeClients(world))) for work in chosen]


def begun(rng: random.Random) -> World:
    world = World(rng)
    world.create("c")
    if rng.random() < 0.5:
        drive(add(FakeClients(world), IDS, "first"))
    return world


@pytest.mark.parametrize("seed", range(4))
def test_writers_of_one_id(seed: int) -> None:
    for number in range(RUNS // 4):
        rng = random.Random(f"{seed} {number}")
        world = begun(rng)
        actors = writers(world, rng, rng.choice((2, 2, 3)))
        actors += helpers(world, rng, (0.3, reconcile))
        run(rng, actors)
        assert [actor.error for actor in actors if actor.error] == []
        assert (differences(world), lost(world, actors)) == ([], []), f"{seed} {number}"


def test_writers_that_are_killed() -> None:
    for number in range(RUNS):
        rng = random.Random(f"killed {number}")
        world = begun(rng)
        actors = writers(world, rng, 3)
        run(rng, actors, kill_rate=0.03)
        drive(reconcile(FakeClients(world)))
        assert (differences(world), lost(world, actors)) == ([], []), number
        assert drive(reconcile(FakeClients(world), dry_run=True)) == [], number


@pytest.mark.parametrize("gives_up", [False, True])
def test_writers_beside_a_reembedding(gives_up: bool) -> None:
    """Of two at once, and one that is given up: no image that is stored fails, none that is acknowledged is lost."""
    for number in range(RUNS // 2):
        rng = random.Random(f"reembedding {number}")
        world = begun(rng)
        world.encodes = NEW
        actors = writers(world, rng, 2)
        others = helpers(
            world,
            rng,
            (1, reembed),
            (0.3, reembed),
            (1 if gives_up else 0, abort),
            (0.2, reconcile),
        )
        run(rng, actors + others)
        assert [actor.error for actor in actors if actor.error] == [], number
        assert (differences(world), lost(world, actors)) == ([], []), number
        if not gives_up:
            assert world.collection("c").current.model == NEW


async def delete_and_create(clients: FakeClients) -> None:
    libraries = Collections(clients)
    await libraries.delete("c")
    await libraries.create(pb.CreateCollectionRequest(collection="c", model=NEW))


async def afterwards(clients: FakeClients) -> list[str]:
    """An import into the collection that was created again."""
    await delete_and_create(clients)
    return await stream(clients, 2, "new")


@pytest.mark.parametrize("kill_rate", [0.0, 0.02])
def test_what_is_deleted_with_its_collection_stays_deleted(kill_rate: float) -> None:
    for number in range(RUNS):
        rng = random.Random(f"deleted {number}")
        world = begun(rng)
        old, second = world.collection("c").creation_id, f"C{2:032x}"
        imports = [Actor(f"import {each}", stream(FakeClients(world), 3, f"old {each}")) for each in range(2)]
        imports.append(
            Actor(
                "delete",
                delete(
                    FakeClients(world),
                    [f"{creation} {each} 0" for creation in (old, second) for each in ("old 0", "new")],
                ),
            )
        )
        deleting = Actor("deleting", afterwards(FakeClients(world)))
        run(rng, [*imports, deleting], kill_rate)
        if not deleting.acknowledged:  # it stopped somewhere: begun again, it ends
            if "c" in world.collections and world.collection("c").creation_id != old:
                continue  # after the collection was created again
            with contextlib.suppress(CollectionNotFound):
                drive(Collections(FakeClients(world)).delete("c"))
            drive(Collections(FakeClients(world)).create(pb.CreateCollectionRequest(collection="c", model=NEW)))
            deleting.result = drive(stream(FakeClients(world), 2, "new"))
        current = world.collection("c").creation_id
        there = world.images[current].keys()
        assert world.images.get(old, {}) == {}, number
        assert len(deleting.result) == 4
        assert set(deleting.result) - there <= {f"{current} new 0"}
        assert [each for each in there if not each.startswith(current)] == [], number
        if not kill_rate:
            assert differences(world) == [], number
            assert drive(reconcile(FakeClients(world), dry_run=True)) == [], number
