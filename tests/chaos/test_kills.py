"""An import while every process is killed repeatedly: nothing acknowledged is lost, no image is in one store only."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc

from cli.client import Client
from protos import admin_pb2, errors_pb2, retriever_pb2, retriever_pb2_grpc, types_pb2
from protos import search_pb2 as pb
from tests.support import cluster
from tests.support.cluster import Cluster
from tests.support.images import noise
from tests.support.servers import Server

# `make chaos` kills 100 times during 2,000 images.
KILLS = int(os.environ.get("WENTU_TEST_KILLS", "8"))
IMAGES = int(os.environ.get("WENTU_TEST_IMAGES", "200"))
SEED = int(os.environ.get("WENTU_TEST_SEED", "7"))
COLLECTION = "kills"
CALL_SECONDS = 60.0
SETTLE_SECONDS = 180.0
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
TEXTS = ("一只猫", "红色的圆", "蓝色的方块", "两个人", "雪山")


class Importer(threading.Thread):
    """Import until everything is acknowledged, in turns through two gateways."""

    def __init__(self, gateways: list[Client], images: Mapping[str, bytes], pace: Callable[[int], None]) -> None:
        super().__init__(name="importer")
        self.acknowledged: dict[str, str] = {}
        self.problems: list[str] = []
        self.streams = 0
        self._gateways, self._images, self._pace = gateways, images, pace
        self.start()

    def run(self) -> None:
        for gateway in itertools.cycle(self._gateways):
            if self.streams:
                time.sleep(0.2)
            missing = [image_id for image_id in self._images if image_id not in self.acknowledged]
            if not missing:
                return
            self.streams += 1
            try:
                for answer in gateway.images.AddImages(self._requests(missing), timeout=CALL_SECONDS):
                    self._note(answer)
            except grpc.RpcError as error:
                if error.code() not in PASSING:
                    self.problems.append(str(error))

    def _requests(self, image_ids: list[str]) -> Iterator[pb.AddImagesRequest]:
        options = pb.AddImagesOptions(collection=COLLECTION, if_exists=types_pb2.IF_EXISTS_SKIP)
        yield pb.AddImagesRequest(options=options)
        for image_id in image_ids:
            self._pace(len(self.acknowledged))
            upload = types_pb2.ImageUpload(image_id=image_id, data=self._images[image_id])
            upload.attributes.update({"number": int(image_id)})
            yield pb.AddImagesRequest(image=upload)

    def _note(self, answer: pb.AddImagesResponse) -> None:
        if answer.status in (pb.ADD_STATUS_ADDED, pb.ADD_STATUS_REPLACED, pb.ADD_STATUS_SKIPPED):
            self.acknowledged[answer.image_id] = answer.image.sha256
        elif answer.error.reason not in (
            errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
            errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
            errors_pb2.ERROR_REASON_SHUTTING_DOWN,
        ):
            self.problems.append(str(answer))


class Searcher(threading.Thread):
    """Search all the time, and read the bytes of each hit."""

    def __init__(self, gateway: Client, images: Mapping[str, bytes], seed: int) -> None:
        super().__init__(name="searcher")
        self.answered = self.failed = self.hits = 0
        self.problems: list[str] = []
        self._gateway, self._images, self._rng = gateway, images, random.Random(seed)
        self._stopped = threading.Event()
        self.start()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        while not self._stopped.wait(0.05):
            query = pb.Query(text=self._rng.choice(TEXTS))
            request = pb.SearchRequest(collection=COLLECTION, query=query, top_k=20)
            try:
                found = self._gateway.search.Search(request, timeout=5)
            except grpc.RpcError:
                self.failed += 1
                continue
            self.answered += 1
            if found.images_unavailable:
                continue
            self.hits += len(found.hits)
            for hit in found.hits:
                if hit.image.sha256 != hashlib.sha256(self._images[hit.image_id]).hexdigest():
                    self.problems.append(f"{hit.image_id} came with {hit.image}")
            if found.hits:
                self._read(self._rng.choice(found.hits).image_id)

    def _read(self, image_id: str) -> None:
        try:
            data = self._gateway.read_image(COLLECTION, image_id, thumbnail=False)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                self.problems.append(f"{image_id} was found and has no bytes")
            return
        if data != self._images[image_id]:
            self.problems.append(f"{image_id} has other bytes")


def kill_all_over(system: Cluster, acknowledged: Callable[[], int], rng: random.Random) -> Iterator[str]:
    """Kill one process at a time, at random moments of the import. Each is killed once before any is killed again."""
    targets: list[str] = []
    for number in range(KILLS):
        # The import is slowed down, so that it is still running at each kill.
        while acknowledged() < IMAGES * number // (KILLS + 1):
            time.sleep(0.02)
        if not targets:
            targets = rng.sample(sorted(system.parts), len(system.parts))
        name = targets.pop()
        time.sleep(rng.uniform(0, 0.5))
        part = system.parts[name]
        part.kill()
        yield name
        time.sleep(rng.uniform(0, 1.0))
        part.start()
        part.wait()


def everything(gateway: Client) -> list[bytes]:
    """The ids of all images that can be listed."""
    found: list[bytes] = []
    token = ""
    while True:
        page = gateway.images.ListImages(
            pb.ListImagesRequest(collection=COLLECTION, page_size=1000, page_token=token), timeout=CALL_SECONDS
        )
        found += [each.SerializeToString(deterministic=True) for each in page.images]
        if not (token := page.next_page_token):
            return found


def reconciled(gateway: Client, **options: bool) -> list[admin_pb2.ReconcileResponse]:
    """What reconcile finds. Asked again while Milvus loads its data and does not answer."""
    request = admin_pb2.ReconcileRequest(collection=COLLECTION, **options)
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            return [each for each in gateway.admin.Reconcile(request, timeout=SETTLE_SECONDS) if each.image_id]
        except grpc.RpcError as error:
            if error.code() not in PASSING or time.monotonic() > deadline:
                raise


def test_an_import_survives_kills_of_every_process(tmp_path: Path, milvus: tuple[Server, str]) -> None:
    images = {f"{number:05}": noise(number) for number in range(IMAGES)}
    rng = random.Random(SEED)
    with cluster.running(tmp_path, milvus) as system:
        first, second = system.gateways
        first.collections.CreateCollection(pb.CreateCollectionRequest(collection=COLLECTION), timeout=CALL_SECONDS)
        kills: list[str] = []

        def pace(acknowledged: int) -> None:
            """Items, delayed so that the import lasts as long as the kills."""
            while acknowledged >= IMAGES * (len(kills) + 1) // (KILLS + 1) and len(kills) < KILLS:
                time.sleep(0.02)
                acknowledged = len(importer.acknowledged)

        importer = Importer([first, second], images, pace)
        searchers = [Searcher(gateway, images, seed) for seed, gateway in enumerate(system.gateways)]
        for name in kill_all_over(system, lambda: len(importer.acknowledged), rng):
            kills.append(name)
        importer.join(SETTLE_SECONDS)
        for searcher in searchers:
            searcher.stop()
        assert not importer.is_alive(), f"{len(importer.acknowledged)} of {IMAGES} after {kills}"
        assert importer.problems == []
        assert [problem for searcher in searchers for problem in searcher.problems] == []
        assert all(searcher.hits for searcher in searchers), "nothing was found during the run"
        print(
            f"{len(kills)} kills ({', '.join(kills)}), {importer.streams} streams, searches answered and not:",
            *((searcher.answered, searcher.failed) for searcher in searchers),
        )
        system.wait()
        assert [each for each in reconciled(first) if not each.repaired] == []
        assert reconciled(second, dry_run=True) == []
        check_every_image(system, images)
        before = everything(first)
        assert len(before) == IMAGES
        again = Importer([second], images, lambda _: None)
        again.join(SETTLE_SECONDS)
        assert (len(again.acknowledged), again.streams, again.problems) == (IMAGES, 1, [])
        assert everything(first) == before, "importing again changes nothing"
        first.collections.DeleteCollection(pb.DeleteCollectionRequest(collection=COLLECTION), timeout=CALL_SECONDS)


def check_every_image(system: Cluster, images: Mapping[str, bytes]) -> None:
    """Each image is the first hit of its own vector, and its bytes are stored."""
    model = system.gateways[0].collections.GetCollection(
        pb.GetCollectionRequest(collection=COLLECTION), timeout=CALL_SECONDS
    )
    assert model.collection.image_count == len(images)
    with grpc.insecure_channel(system.retriever) as channel:
        stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        ids = sorted(images)
        for start in range(0, len(ids), 50):
            some = ids[start : start + 50]
            records = stub.GetVectors(
                retriever_pb2.GetVectorsRequest(
                    collection=COLLECTION,
                    image_ids=some,
                    include_embeddings=True,
                    consistency=types_pb2.CONSISTENCY_STRONG,
                )
            ).records
            assert [record.image_id for record in records] == some
            found = stub.SearchVectors(
                retriever_pb2.SearchVectorsRequest(
                    collection=COLLECTION,
                    queries=[record.embedding for record in records],
                    top_k=1,
                    model=model.collection.model,
                )
            )
            assert [result.hits[0].image_id for result in found.results] == some
    for image_id, data in images.items():
        assert system.gateways[1].read_image(COLLECTION, image_id, thumbnail=False) == data
