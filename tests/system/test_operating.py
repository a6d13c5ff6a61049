"""What operators rely on: health, request ids, and the answers while a service is down."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import pytest

from protos import search_pb2 as pb
from services.common.channels import open_sync_channel
from services.common.probe import is_serving
from tests.support.images import gallery
from tests.support.servers import end, free_ports, process
from tests.support.system import System, refusal

SAMPLE = {image.image_id: image.data for image in gallery()[:20]}
READY_SECONDS = 90


@dataclass
class Fleet:
    """The four services, each in its own process that a test can stop and start."""

    data: Path
    system: System
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def start(self, name: str, *more: str) -> None:
        port = self.system.port
        flags = {
            "gateway": ["--encoder", self.at(1), "--retriever", self.at(2), "--imagestore", self.at(3)],
            "encoder": [],
            "retriever": ["--milvus", str(self.data / "milvus.db")],
            "imagestore": ["--database", str(self.data / "images.db")],
        }[name]
        offset = ["gateway", "encoder", "retriever", "imagestore"].index(name)
        module = name if name == "gateway" else f"services.{name}"
        command = [sys.executable, "-m", module, "--port", str(port + offset), *flags, *more]
        self.children[name] = self.stack.enter_context(process(command, self.data / f"{name}.log"))
        eventually(lambda: is_serving(self.at(offset)))

    def kill(self, name: str) -> None:
        end(self.children[name], signal.SIGKILL)

    def at(self, offset: int) -> str:
        return f"127.0.0.1:{self.system.port + offset}"

    def logs(self, name: str) -> list[dict[str, object]]:
        lines = (self.data / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def calls(self, name: str, request_id: str) -> list[dict[str, object]]:
        return [line for line in self.logs(name) if line.get("request_id") == request_id]


def eventually(holds: Callable[[], object], seconds: float = READY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def health(address: str, service: str) -> str:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with open_sync_channel(address, direct=True) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)  # type: ignore[attr-defined]
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    data = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(data, System(data, free_ports(4), ()))
    with fleet.stack:
        for name in ("encoder", "retriever", "imagestore", "gateway"):
            fleet.start(name)
        fleet.system.create("c")
        fleet.system.add("c", SAMPLE)
        yield fleet


def test_a_request_id_goes_through_all_services(fleet: Fleet) -> None:
    request = pb.SearchRequest(collection="c", query=pb.Query(text="笑脸"))
    _, call = fleet.system.client.search.Search.with_call(request, metadata=(("x-request-id", "order-66"),), timeout=30)
    assert ("x-request-id", "order-66") in call.trailing_metadata()
    for name in ("gateway", "encoder", "retriever", "imagestore"):
        eventually(partial(fleet.calls, name, "order-66"), 5)  # a call is logged after its answer was sent
        calls = fleet.calls(name, "order-66")
        assert calls[-1]["event"] == "call"
        assert calls[-1]["code"] == "OK"
        assert calls[-1]["service"] == name
    _, call = fleet.system.client.search.Search.with_call(request, metadata=(("x-request-id", "x" * 999),), timeout=30)
    made = dict(call.trailing_metadata())["x-request-id"]
    assert len(made) == 32, "an id that is too long is replaced"


def test_without_the_image_store_searches_answer_ids_and_scores(fleet: Fleet) -> None:
    whole = fleet.system.search("c", "笑脸")
    assert not whole.images_unavailable
    fleet.kill("imagestore")
    eventually(lambda: health(fleet.system.address, "wentu.v1.ImageService") == "NOT_SERVING")
    assert health(fleet.system.address, "wentu.v1.SearchService") == "SERVING"
    bare = fleet.system.search("c", "笑脸")
    assert bare.images_unavailable
    assert [(hit.image_id, hit.score) for hit in bare.hits] == [(hit.image_id, hit.score) for hit in whole.hits]
    with pytest.raises(grpc.RpcError) as caught:
        fleet.system.read("c", whole.hits[0].image_id)
    refused = refusal(caught.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert refused.metadata == {"dependency": "imagestore"}
    assert refused.retry
    outcome = fleet.system.add("c", {"new": SAMPLE["169"]})["new"]
    assert outcome.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    fleet.start("imagestore")
    eventually(lambda: health(fleet.system.address, "wentu.v1.ImageService") == "SERVING")
    eventually(lambda: not fleet.system.search("c", "笑脸").images_unavailable)


def test_an_image_store_that_hangs_is_left_alone_for_a_while(fleet: Fleet) -> None:
    def took() -> float:
        started = time.monotonic()
        assert fleet.system.search("c", "笑脸").images_unavailable
        return time.monotonic() - started

    assert not fleet.system.search("c", "笑脸").images_unavailable
    fleet.children["imagestore"].send_signal(signal.SIGSTOP)
    try:
        assert max(took() for _ in range(3)) < 4, "ids and scores come although the bytes do not"
        assert took() < 1, "and after some times without waiting"
    finally:
        fleet.children["imagestore"].send_signal(signal.SIGCONT)
    eventually(lambda: not fleet.system.search("c", "笑脸").images_unavailable, 10)


def test_status_tells_what_hangs(fleet: Fleet) -> None:
    frozen = [fleet.children[name] for name in ("encoder", "retriever", "imagestore")]
    started = time.monotonic()
    for child in frozen:
        child.send_signal(signal.SIGSTOP)
    try:
        printed = fleet.system.cli("status", code=1)
        assert time.monotonic() - started < 30
    finally:
        for child in frozen:
            child.send_signal(signal.SIGCONT)
    assert printed.count("unreachable") == 3
    assert "collections: not known without retriever and imagestore" in printed
    eventually(lambda: health(fleet.system.address, "wentu.v1.SearchService") == "SERVING")
    assert "\\x0a" not in fleet.system.cli("status")


def test_without_the_retriever_images_are_read(fleet: Fleet) -> None:
    fleet.kill("retriever")
    eventually(lambda: health(fleet.system.address, "wentu.v1.SearchService") == "NOT_SERVING")
    assert fleet.system.read("c", "169") == SAMPLE["169"]
    with pytest.raises(grpc.RpcError) as caught:
        fleet.system.search("c", "笑脸")
    assert refusal(caught.value).metadata == {"dependency": "retriever"}
    fleet.start("retriever")
    eventually(lambda: health(fleet.system.address, "wentu.v1.SearchService") == "SERVING")
    assert len(fleet.system.search("c", "笑脸").hits) == 10


def test_a_dead_encoder_replica_is_left_out(fleet: Fleet) -> None:
    """Two encoders behind one gateway share the load. One is killed during searches, and no search fails."""
    first = free_ports(2)
    replicas = [f"127.0.0.1:{first}", fleet.at(1)]
    gateway = System(fleet.data, first + 1, ())
    encoder = [sys.executable, "-m", "services.encoder", "--port", str(first)]
    door = [sys.executable, "-m", "gateway", "--port", str(first + 1), "--encoder", f"ipv4:{','.join(replicas)}"]
    others = ["--retriever", fleet.at(2), "--imagestore", fleet.at(3)]
    log = fleet.data / "replicas.log"
    with process(encoder, log) as second, process([*door, *others], log):
        eventually(lambda: is_serving(replicas[0]) and is_serving(gateway.address))
        eventually(lambda: health(gateway.address, "wentu.v1.SearchService") == "SERVING")

        def shared() -> bool:
            assert gateway.search("c", "笑脸").hits
            return served_texts(log) > 10

        eventually(shared)
        for number in range(100):
            if number == 20:
                end(second, signal.SIGKILL)
            assert gateway.search("c", "笑脸").hits


def served_texts(log: Path) -> int:
    return sum("EncodeTexts" in line and '"service": "encoder"' in line for line in log.read_text().splitlines())


def test_a_service_stops_when_asked(fleet: Fleet) -> None:
    child = fleet.children["encoder"]
    child.send_signal(signal.SIGTERM)
    assert child.wait(15) == 0
    assert [line["event"] for line in fleet.logs("encoder")][-2:] == ["stopping", "stopped"]
    fleet.start("encoder")


def test_an_import_waits_for_an_encoder_that_is_full(tmp_path: Path) -> None:
    """The import has many times more images than the encoder accepts at once. No image fails for that."""
    fleet = Fleet(tmp_path, System(tmp_path, free_ports(4), ()))
    images = {image.image_id: image.data for image in gallery()[:200]}
    with fleet.stack:
        fleet.start("encoder", "--max-images", "4", "--max-queue-images", "4")
        fleet.start("retriever")
        fleet.start("imagestore")
        fleet.start("gateway", "--import-batch", "4", "--import-workers", "3")
        fleet.system.create("c")
        outcomes = fleet.system.add("c", images)
        assert {outcome.status for outcome in outcomes.values()} == {pb.ADD_STATUS_ADDED}
        assert fleet.system.count("c") == len(images)
        refused = [line for line in fleet.logs("encoder") if line.get("code") == "UNAVAILABLE"]
        assert refused, "the encoder was full"
