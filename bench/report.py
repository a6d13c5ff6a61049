"""What a benchmark prints and writes: the machine, a table, and the same figures as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

PACKAGES = ("grpcio", "openvino", "torch", "pillow", "pymilvus", "milvus", "pymysql", "sqlalchemy")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    cpu, flags = platform.processor(), ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            cpu = value.strip()
        if name.strip() == "flags":
            flags = value
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "isa": [each for each in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if each in flags.split()],
        "memory_gib": round(memory_kib / 2**20, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor_time() -> tuple[float, float]:
    """All processor time so far, and the part of it that the hypervisor gave to other machines."""
    fields = [float(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(fields), fields[7]


def bare_call_ms(channel: grpc.Channel, count: int = 300) -> float:
    """Median seconds of a health check, a call that computes nothing."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    times = []
    for _ in range(count):
        started = time.perf_counter()
        stub.Check(health_pb2.HealthCheckRequest())
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


class Report:
    """Rows of figures, printed as they come. `steal` is the share of the cores that other machines took meanwhile."""

    def __init__(self, name: str, **facts: Any) -> None:
        self._figures: dict[str, Any] = {"benchmark": name, "machine": machine(), **facts, "rows": []}
        print(f"# {name}\n\nmachine: {self._figures['machine']}")
        for fact, value in facts.items():
            print(f"{fact}: {value}")
        print(
            "\n| what | measured | against | ratio | aim | steal |\n| --- | --- | --- | --- | --- | --- |", flush=True
        )
        self._time = _processor_time()

    def row(self, what: str, measured: str, against: str = "", ratio: str = "", aim: str = "", **figures: Any) -> None:
        """One line; `figures` are the numbers behind it, for JSON alone."""
        before, self._time = self._time, _processor_time()
        steal = (self._time[1] - before[1]) / max(1.0, self._time[0] - before[0])
        print(f"| {what} | {measured} | {against} | {ratio} | {aim} | {steal:.0%} |", flush=True)
        shown = {"what": what, "measured": measured, "against": against, "ratio": ratio, "aim": aim, "steal": steal}
        self._figures["rows"].append({**shown, **figures})

    def latencies(self, what: str, ours_ms: Sequence[float], whose: str, theirs_ms: Sequence[float], aim: str) -> None:
        """Add the median, whose aim is `aim`, and the 99th percentile, beside those of the side named `whose`."""
        for percent, wanted in ((50, aim), (99, "")):
            mine, other = (float(np.percentile(times, percent)) for times in (ours_ms, theirs_ms))
            self.row(
                f"{what}, p{percent}", f"{mine:.2f} ms", f"{whose} {other:.2f} ms", f"{mine - other:+.2f} ms", wanted
            )

    def write(self, path: Path | None) -> None:
        """Write the report as one JSON object, if a file was asked for."""
        if path is not None:
            path.write_text(json.dumps(self._figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"\nwritten: {path}", file=sys.stderr)
