"""What reconciling and re-embedding do with each state that an image can be in."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf import struct_pb2

from gateway.maintenance import reconciler as reconciling
from gateway.maintenance import reembedder as reembedding
from gateway.maintenance.reconciler import Reconciler
from gateway.maintenance.reembedder import Reembedder
from gateway.settings import GatewaySettings
from gateway.upstreams.known_collections import KnownCollections
from protos import admin_pb2 as pb
from protos import imagestore_pb2, retriever_pb2, types_pb2
from services.common.errors import CollectionNotFound, UnreadableImage, UpstreamUnavailable
from services.common.wire_errors import from_item_error, item_error
from tests.unit.interleaving import Step, drive
from tests.unit.worlds import (
    NEW,
    OLD,
    Collection,
    FakeClients,
    FakeEncoder,
    FakeEncoders,
    FakeImageStore,
    FakeRetriever,
    Row,
    World,
    embedding,
)

SETTINGS = GatewaySettings(import_batch=2, timeout_seconds=5)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "SECOND_LOOK_SECONDS", 0)
    monkeypatch.setattr(reembedding, "SETTLE_SECONDS", 0)


class ImageStore(FakeImageStore):
    """Its images were stored some seconds ago, and calls of it may fail."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.age_seconds = 3600.0
        self.breaks = False

    async def get_blobs(self, *args: Any, **options: Any) -> Sequence[imagestore_pb2.Blob]:
        found = await super().get_blobs(*args, **options)
        for blob in found:
            blob.info.create_time.FromNanoseconds(round((time.time() - self.age_seconds) * 1e9))
        return found

    async def delete_blobs(
        self, collection: str, image_ids: Sequence[str], *, creation_id: str, revisions: Sequence[int] = ()
    ) -> Sequence[str]:
        if self.breaks:
            raise UpstreamUnavailable("imagestore", "broken")
        assert revisions, "an image that was put again meanwhile must not go"
        return await super().delete_blobs(collection, image_ids, creation_id=creation_id, revisions=revisions)


class Retriever(FakeRetriever):
    """Writes to it may fail."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.breaks = False

    async def upsert_vectors(self, request: retriever_pb2.UpsertVectorsRequest) -> retriever_pb2.UpsertVectorsResponse:
        if self.breaks:
            raise UpstreamUnavailable("retriever", "broken")
        return await super().upsert_vectors(request)


class Clients(FakeClients):
    """Of a world whose stores may fail."""

    retriever: Retriever
    imagestore: ImageStore

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.retriever = Retriever(world)
        self.imagestore = ImageStore(world)
        self.collections = KnownCollections(self.retriever)


def struct(text: str) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update({"a": text})
    return message


def world_of(*image_ids: str) -> tuple[Collection, dict[str, Row], Clients]:
    """A collection in which both stores agree about these images."""
    world = World(random.Random(0))
    found = world.create("c")
    rows = world.images.setdefault(found.creation_id, {})
    for image_id in image_ids:
        row = rows[image_id] = Row(image_id.encode(), struct(image_id), world.rng.getrandbits(62))
        found.current.vectors[image_id] = retriever_pb2.VectorRecord(
            image_id=image_id,
            embedding=types_pb2.Embedding(values=embedding(OLD, row.data)),
            attributes=row.attributes,
            content_sha256=row.sha256,
            model_sha256=OLD.checkpoint_sha256,
        )
    return found, rows, Clients(world)


def reconciled(clients: Clients, **fields: bool) -> list[pb.ReconcileResponse]:
    async def answers() -> list[pb.ReconcileResponse]:
        request = pb.ReconcileRequest(collection="c", **fields)
        return [each async for each in Reconciler(clients, SETTINGS).run(request)]

    found: list[pb.ReconcileResponse] = drive(answers())
    return found


def said(answers: Sequence[pb.ReconcileResponse]) -> dict[str, tuple[pb.FindingKind.ValueType, bool]]:
    """The findings by image, and whether each was repaired."""
    return {each.image_id: (each.kind, each.repaired) for each in answers if each.image_id}


def agrees(found: Collection, rows: dict[str, Row]) -> bool:
    """Whether every image has the vector of its bytes and attributes, and nothing else has one."""
    made = {image_id: (record.content_sha256, record.attributes) for image_id, record in found.current.vectors.items()}
    return made == {image_id: (row.sha256, row.attributes) for image_id, row in rows.items()}


def odd_world() -> tuple[Collection, dict[str, Row], Clients]:
    """One image in each state, and what it is called."""
    found, rows, clients = world_of("bytes alone", "fine", "gone", "other attributes", "other bytes", "other model")
    del found.current.vectors["bytes alone"]
    del rows["gone"]
    found.current.vectors["other bytes"].content_sha256 = "f" * 64
    found.current.vectors["other attributes"].attributes.update({"a": "b"})
    found.current.vectors["other model"].model_sha256 = "f" * 64
    return found, rows, clients


KINDS = {
    "bytes alone": pb.FINDING_KIND_ORPHANED_BYTES,
    "gone": pb.FINDING_KIND_MISSING_BYTES,
    "other attributes": pb.FINDING_KIND_STALE_VECTOR,
    "other bytes": pb.FINDING_KIND_STALE_VECTOR,
    "other model": pb.FINDING_KIND_WRONG_MODEL,
}


def test_each_kind_of_difference_is_found_and_repaired() -> None:
    found, rows, clients = odd_world()
    answers = reconciled(clients)
    assert said(answers) == {image_id: (kind, True) for image_id, kind in KINDS.items()}
    assert (answers[-1].checked_count, answers[-1].leftover_count) == (6, 0)
    assert agrees(found, rows)
    assert said(reconciled(clients)) == {}


def test_a_dry_run_finds_the_same_and_touches_nothing() -> None:
    found, rows, clients = odd_world()
    before = dict(found.current.vectors), dict(rows)
    assert said(reconciled(clients, dry_run=True)) == {image_id: (kind, False) for image_id, kind in KINDS.items()}
    assert (found.current.vectors, rows) == before


def test_a_vector_of_which_nobody_said_what_it_was_made_from_passes() -> None:
    found, _, clients = world_of("a")
    found.current.vectors["a"].content_sha256 = found.current.vectors["a"].model_sha256 = ""
    assert said(reconciled(clients)) == {}


@pytest.mark.parametrize(("age_seconds", "goes"), [(10.5, True), (9.0, False)])
def test_bytes_alone_are_removed_if_that_is_asked_for_and_no_write_can_be_under_way(
    age_seconds: float, goes: bool
) -> None:
    _, rows, clients = odd_world()
    clients.imagestore.age_seconds = age_seconds  # two calls of 5 s are the longest write
    answers = reconciled(clients, remove_orphans=True)
    assert said(answers)["bytes alone"] == (pb.FINDING_KIND_ORPHANED_BYTES, goes)
    assert ("bytes alone" in rows) == (not goes)
    [refused] = [each for each in answers if each.image_id == "bytes alone"]
    if not goes:
        assert from_item_error(refused.error).reason == "WRITE_UNDER_WAY"
    assert all(repaired for image_id, (_, repaired) in said(answers).items() if image_id != "bytes alone")


def test_what_fails_is_told_of_its_images_and_the_others_go_on() -> None:
    _, rows, clients = odd_world()
    clients.imagestore.breaks = clients.retriever.breaks = True
    answers = reconciled(clients, remove_orphans=True)
    assert said(answers) == {image_id: (kind, image_id == "gone") for image_id, kind in KINDS.items()}
    assert {from_item_error(each.error).reason for each in answers if each.HasField("error")} == {
        "DEPENDENCY_UNAVAILABLE"
    }
    assert "bytes alone" in rows


def test_images_of_a_deleted_collection_of_the_same_name_are_counted_or_removed() -> None:
    _, _, clients = world_of("a")
    clients.world.images["C_before"] = {"x": Row(b"x", struct("x"), 1), "y": Row(b"y", struct("y"), 2)}
    assert reconciled(clients, dry_run=True)[-1].leftover_count == 2
    assert clients.world.images["C_before"]
    assert reconciled(clients)[-1].leftover_count == 2
    assert not clients.world.images["C_before"]


def test_many_differences_are_dealt_with_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "LOOK_AT_ONCE", 3)
    monkeypatch.setattr(reconciling, "TELL_EVERY", 4)
    found, rows, clients = world_of(*(f"{number:02}" for number in range(10)))
    found.current.vectors.clear()
    assert [each.image_id for each in reconciled(clients, dry_run=True) if each.image_id] == sorted(rows)
    answers = reconciled(clients)
    assert [each.checked_count for each in answers if not each.image_id] == [4, 8, 10]
    assert len(said(answers)) == 10
    assert agrees(found, rows)


def reembedded(clients: Clients) -> list[pb.ReembedResponse]:
    async def answers() -> list[pb.ReembedResponse]:
        request = pb.ReembedRequest(collection="c")
        return [each async for each in Reembedder(clients, SETTINGS).run(request)]

    found: list[pb.ReembedResponse] = drive(answers())
    return found


def test_re_embedding_tells_how_far_it_is_and_ends_when_the_new_vectors_serve() -> None:
    found, rows, clients = world_of("a", "b", "c", "d", "e")
    clients.world.encodes = NEW
    answers = reembedded(clients)
    assert [each.done_count for each in answers[:-1]] == [2, 4, 5]
    assert {each.total_count for each in answers[:-1]} == {5}
    assert [each.committed for each in answers] == [False] * 3 + [True]
    assert found.current.model == NEW
    assert agrees(found, rows)
    assert [record.embedding.values for record in found.current.vectors.values()] == [
        embedding(NEW, row.data) for row in rows.values()
    ]


def test_re_embedding_goes_on_where_it_was_stopped_and_leaves_behind_what_has_no_bytes() -> None:
    found, rows, clients = world_of("a", "b", "c")
    clients.world.encodes = NEW
    drive(clients.retriever.begin_rebuild(retriever_pb2.BeginRebuildRequest(collection="c", model=NEW)))
    assert found.rebuild is not None
    for image_id in ("a", "gone"):
        record = found.rebuild.vectors[image_id] = retriever_pb2.VectorRecord()
        record.CopyFrom(found.current.vectors["a"])
        record.image_id = image_id
    assert [each.done_count for each in reembedded(clients)[:-1]] == [2, 3], "c, b and the one without bytes"
    assert agrees(found, rows)


def test_a_collection_of_the_model_already_is_committed_and_nothing_is_made() -> None:
    found, _, clients = world_of("a")
    clients.retriever.breaks = True
    [answer] = reembedded(clients)
    assert answer.committed
    assert found.current.model == OLD


def test_an_image_that_cannot_be_read_stops_re_embedding_and_the_old_vectors_serve() -> None:
    class Unreadable(FakeEncoder):
        async def encode_images(self, images: Sequence[bytes]) -> object:  # type: ignore[override]
            answer = await super().encode_images(images)
            for result, data in zip(answer.results, images, strict=True):
                if data == b"b":
                    result.error.CopyFrom(item_error(UnreadableImage("images[0]", "is damaged")))
            return answer

    class Encoders(FakeEncoders):
        async def of(self, model: object) -> FakeEncoder:
            await Step()
            return Unreadable(NEW)

    found, _, clients = world_of("a", "b")
    clients.world.encodes = NEW
    clients.encoders = Encoders(clients.world)  # type: ignore[assignment]
    with pytest.raises(UnreadableImage, match="image 'b'"):
        reembedded(clients)
    assert found.current.model == OLD
    assert found.rebuild is not None


def test_a_collection_that_there_is_not() -> None:
    _, _, clients = world_of()
    clients.world.collections.clear()
    with pytest.raises(CollectionNotFound):
        reconciled(clients)
    with pytest.raises(CollectionNotFound):
        reembedded(clients)
