"""Another caller, meanwhile: `python -m tests.fuzz.probe PORT COLLECTION TEXT` searches and asks for health.

A process of its own, so that it measures the services and not the fuzz. It ends with standard input, and then prints
what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import search_pb2 as pb
from protos import search_pb2_grpc
from tests.fuzz.contract import PORT_OFFSETS

EVERY_SECONDS = 0.1
# Long enough to measure how late a late answer is.
PATIENCE_SECONDS = 30.0
KEPT = 20


@dataclass
class Seen:
    """How the calls of one kind went. `slowest` and `failed` are (clock time of the start, seconds, error)."""

    count: int = 0
    seconds: list[float] = field(default_factory=list)
    slowest: list[tuple[float, float, str]] = field(default_factory=list)
    failed: list[tuple[float, float, str]] = field(default_factory=list)

    def add(self, at: float, seconds: float, error: str) -> None:
        self.count += 1
        self.seconds.append(seconds)
        self.slowest = sorted([*self.slowest, (at, seconds, error)], key=lambda each: -each[1])[:KEPT]
        if error:
            self.failed = [*self.failed, (at, seconds, error)][:KEPT]

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.seconds) or [0.0]
        return {
            "count": self.count,
            "median_seconds": round(ordered[len(ordered) // 2], 4),
            "p99_seconds": round(ordered[len(ordered) * 99 // 100], 4),
            "max_seconds": round(ordered[-1], 4),
            "slowest": self.slowest,
            "failed": self.failed,
        }


def repeat(call: Callable[[], str], seen: Seen, stop: threading.Event) -> None:
    while not stop.is_set():
        at, started = time.time(), time.perf_counter()
        try:
            error = call()
        except grpc.RpcError as failed:
            status: Any = failed
            error = f"{status.code().name}: {status.details()[:200]}"
        seconds = time.perf_counter() - started
        seen.add(at, round(seconds, 4), error)
        stop.wait(max(0.0, EVERY_SECONDS - seconds))


def main(port: int, collection: str, text: str) -> None:
    search: Any = search_pb2_grpc.SearchServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
    request = pb.SearchRequest(collection=collection, query=pb.Query(text=text))

    def found() -> str:
        hits = search.Search(request, timeout=PATIENCE_SECONDS).hits
        return "" if len(hits) == 10 else f"{len(hits)} hits, not 10"

    def healthy(process: str) -> Callable[[], str]:
        stub: Any = health_pb2_grpc.HealthStub(grpc.insecure_channel(f"127.0.0.1:{port + PORT_OFFSETS[process]}"))

        def call() -> str:
            status = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS).status
            return "" if status == health_pb2.HealthCheckResponse.SERVING else f"health {status}"

        return call

    calls = {"search": found, **{f"health of {process}": healthy(process) for process in PORT_OFFSETS}}
    seen = {name: Seen() for name in calls}
    stop = threading.Event()
    threads = [threading.Thread(target=repeat, args=(call, seen[name], stop)) for name, call in calls.items()]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    json.dump({name: each.summary() for name, each in seen.items()}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
