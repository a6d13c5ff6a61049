"""A collection that is deleted during an import and created again: no image of the old collection remains."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import grpc
import pytest

from protos import admin_pb2, errors_pb2, types_pb2
from protos import search_pb2 as pb
from tests.support.images import noise
from tests.support.system import CALL_SECONDS, System, refusal

BEFORE = 40


class Importer(threading.Thread):
    """Adds images until it is refused."""

    def __init__(self, system: System, collection: str, name: str) -> None:
        super().__init__(name=name)
        self.acknowledged: list[str] = []
        self.enough, self.stopped = threading.Event(), threading.Event()
        self._system, self._collection = system, collection
        self.start()

    def run(self) -> None:
        for answer in self._system.client.images.AddImages(self._requests(), timeout=CALL_SECONDS):
            if answer.status == pb.ADD_STATUS_ADDED:
                self.acknowledged.append(answer.image_id)
            elif answer.error.reason == errors_pb2.ERROR_REASON_COLLECTION_NOT_FOUND:
                self.stopped.set()
            if len(self.acknowledged) >= BEFORE:
                self.enough.set()

    def _requests(self) -> Iterator[pb.AddImagesRequest]:
        yield pb.AddImagesRequest(options=pb.AddImagesOptions(collection=self._collection))
        number = 0
        while not self.stopped.is_set():
            number += 1
            upload = types_pb2.ImageUpload(image_id=f"{self.name} {number}", data=noise(number))
            yield pb.AddImagesRequest(image=upload)


def test_deleted_during_an_import(system: System) -> None:
    name = f"t{uuid.uuid4().hex[:12]}"
    system.create(name)
    importers = [Importer(system, name, f"old {number}") for number in range(2)]
    for importer in importers:
        assert importer.enough.wait(CALL_SECONDS)
    system.drop(name)
    system.create(name)
    [added] = system.add(name, {"new": noise(1)}).values()
    assert added.status == pb.ADD_STATUS_ADDED
    for importer in importers:
        importer.join(CALL_SECONDS)
        assert importer.stopped.is_set()
    assert [image_id for image_id, _ in system.search_strong(name, "一只猫", top_k=1000)] == ["new"]
    listed = system.client.images.ListImages(pb.ListImagesRequest(collection=name), timeout=CALL_SECONDS)
    assert [each.image.image_id for each in listed.images] == ["new"]
    for image_id in importers[0].acknowledged[::10]:
        with pytest.raises(grpc.RpcError) as caught:
            system.read(name, image_id)
        assert refusal(caught.value).reason == "IMAGE_NOT_FOUND"
    request = admin_pb2.ReconcileRequest(collection=name, dry_run=True)
    [last] = system.client.admin.Reconcile(request, timeout=CALL_SECONDS)
    assert (last.checked_count, last.leftover_count) == (1, 0)
    assert system.read(name, "new") == noise(1)
    system.drop(name)
