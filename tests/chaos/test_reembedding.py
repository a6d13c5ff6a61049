"""A collection gets a new model while it is searched and written to, and while the re-embedding is killed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import torch

from cli.client import Client
from protos import admin_pb2, retriever_pb2, retriever_pb2_grpc, types_pb2
from protos import search_pb2 as pb
from services.encoder.checkpoints import DEMO_FOLDER
from tests.support import cluster
from tests.support.images import gallery, noise
from tests.support.servers import Server

# `make chaos` takes 1,000.
IMAGES = int(os.environ.get("WENTU_TEST_REEMBEDDED", "180"))
# Images of the demo's gallery, which the model understands. The others are noise.
KNOWN = 60
COLLECTION = "again"
CALL_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 1.0


def turned_model(folder: Path) -> Path:
    """The demo model with both projections rotated in the same way: another model with the same search results."""
    shutil.copytree(DEMO_FOLDER, folder)
    [path] = folder.glob("*.pt")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = checkpoint["state_dict"]
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(256, 256)))
    right = {"module.text_projection": turn}
    left = {"module.visual.attnpool.c_proj.weight": turn.T, "module.visual.attnpool.c_proj.bias": turn.T}
    for key, matrix in right.items():
        state[key] = (state[key].double() @ torch.from_numpy(matrix)).to(state[key].dtype)
    for key, matrix in left.items():
        state[key] = (torch.from_numpy(matrix) @ state[key].double()).to(state[key].dtype)
    torch.save(checkpoint, path)
    return folder


class Searcher(threading.Thread):
    """Search all the time. Each answer must name the same best image."""

    def __init__(self, gateway: Client, text: str, best: str) -> None:
        super().__init__(name="searcher")
        self.answered = 0
        self.problems: list[str] = []
        self.models: list[str] = []
        self._gateway, self._text, self._best = gateway, text, best
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        request = pb.SearchRequest(collection=COLLECTION, query=pb.Query(text=self._text), top_k=3)
        while not self.stopped.wait(0.02):
            try:
                found = self._gateway.search.Search(request, timeout=10)
            except grpc.RpcError as error:
                self.problems.append(str(error))
                continue
            self.answered += 1
            self.models.append(found.model.checkpoint_sha256)
            if not found.hits or found.hits[0].image_id != self._best:
                self.problems.append(str(found))


class Writer(threading.Thread):
    """Add, replace and delete all the time, and keep what is acknowledged in a dict."""

    def __init__(self, gateway: Client, truth: dict[str, bytes]) -> None:
        super().__init__(name="writer")
        self.truth = truth
        self.writes = 0
        self.problems: list[str] = []
        self._gateway, self._rng = gateway, random.Random(1)
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        seed = 1_000_000
        while not self.stopped.wait(0.05):
            seed += 1
            mine = sorted(image_id for image_id in self.truth if image_id.startswith("noise"))
            image_id = self._rng.choice(mine) if self._rng.random() < 0.6 else f"noise {seed}"
            try:
                if image_id in self.truth and self._rng.random() < 0.4:
                    selection = pb.ImageIdList(image_ids=[image_id])
                    self._gateway.images.DeleteImages(
                        pb.DeleteImagesRequest(collection=COLLECTION, ids=selection), timeout=CALL_SECONDS
                    )
                    del self.truth[image_id]
                else:
                    request = pb.AddImageRequest(collection=COLLECTION, image=upload(image_id, noise(seed)))
                    self._gateway.images.AddImage(request, timeout=CALL_SECONDS)
                    self.truth[image_id] = noise(seed)
                self.writes += 1
            except grpc.RpcError as error:
                self.problems.append(str(error))


def upload(image_id: str, data: bytes) -> types_pb2.ImageUpload:
    message = types_pb2.ImageUpload(image_id=image_id, data=data)
    message.attributes.update({"sha256": hashlib.sha256(data).hexdigest()})
    return message


def reembed(gateway: Client) -> list[admin_pb2.ReembedResponse]:
    return list(gateway.admin.Reembed(admin_pb2.ReembedRequest(collection=COLLECTION), timeout=600))


def test_searches_and_writes_go_on_under_a_new_model(tmp_path: Path, milvus: tuple[Server, str]) -> None:
    model = turned_model(tmp_path / "turned")
    with cluster.running(tmp_path, milvus, str(model), old_model="demo") as system:
        first, second = system.gateways
        services = first.admin.GetStatus(admin_pb2.GetStatusRequest()).services
        new, old = (each.model for each in services if each.name == "encoder")
        first.collections.CreateCollection(pb.CreateCollectionRequest(collection=COLLECTION, model=old))
        images = {each.image_id: each.data for each in gallery()[:KNOWN]}
        images |= {f"noise {number}": noise(number) for number in range(IMAGES - KNOWN)}
        requests = [pb.AddImagesRequest(image=upload(*each)) for each in images.items()]
        options = pb.AddImagesRequest(options=pb.AddImagesOptions(collection=COLLECTION))
        added = first.images.AddImages(iter([options, *requests]), timeout=10 * CALL_SECONDS)
        assert {each.status for each in added} == {pb.ADD_STATUS_ADDED}
        text = str(gallery()[0].attributes["captions"][0])
        request = pb.SearchRequest(
            collection=COLLECTION, query=pb.Query(text=text), top_k=3, consistency=types_pb2.CONSISTENCY_STRONG
        )
        found = first.search.Search(request, timeout=CALL_SECONDS)
        assert found.model == old
        time.sleep(FIRST_PAUSE_SECONDS)
        searcher = Searcher(first, text, found.hits[0].image_id)
        writer = Writer(first, dict(images))
        for place in (1, 3):  # killed in the middle, each time a little later
            stream = second.admin.Reembed(admin_pb2.ReembedRequest(collection=COLLECTION), timeout=600)
            for _ in range(place):
                assert not next(stream).committed
            system.parts["gateway-2"].kill()
            system.parts["gateway-2"].start()
            system.parts["gateway-2"].wait()
        steps = reembed(second)
        assert steps[-1].committed
        time.sleep(FIRST_PAUSE_SECONDS)
        for thread in (searcher, writer):
            thread.stopped.set()
            thread.join()
        assert (searcher.problems, writer.problems) == ([], [])
        assert searcher.answered > 50
        assert writer.writes > 50
        assert {searcher.models[0], searcher.models[-1]} == {old.checkpoint_sha256, new.checkpoint_sha256}
        print(f"{searcher.answered} searches, {writer.writes} writes, {len(steps) - 1} steps in the last run")
        check(system.retriever, first, writer.truth, new)
        assert reembed(first)[-1].committed, "where nothing is left to do, it says so"
        first.collections.DeleteCollection(pb.DeleteCollectionRequest(collection=COLLECTION), timeout=CALL_SECONDS)


def check(retriever: str, gateway: Client, truth: dict[str, bytes], model: types_pb2.ModelFingerprint) -> None:
    """Every image, and no other, has a vector of the new model, made from the bytes that it has."""
    collection = gateway.collections.GetCollection(pb.GetCollectionRequest(collection=COLLECTION)).collection
    assert collection.model == model
    records: list[retriever_pb2.VectorRecord] = []
    with grpc.insecure_channel(retriever) as channel:
        stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        token = ""
        while True:
            page = stub.ListVectors(
                retriever_pb2.ListVectorsRequest(
                    collection=COLLECTION,
                    page_size=1000,
                    page_token=token,
                    include_embeddings=True,
                    consistency=types_pb2.CONSISTENCY_STRONG,
                )
            )
            records += page.records
            if not (token := page.next_page_token):
                break
    hashes = {image_id: hashlib.sha256(data).hexdigest() for image_id, data in truth.items()}
    assert {record.image_id: record.content_sha256 for record in records} == hashes
    assert {record.image_id: record.attributes["sha256"] for record in records} == hashes
    assert {record.model_sha256 for record in records} == {model.checkpoint_sha256}
    request = admin_pb2.ReconcileRequest(collection=COLLECTION, dry_run=True)
    assert [each for each in gateway.admin.Reconcile(request) if each.image_id] == []
