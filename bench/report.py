"""What a benchmark prints and writes: the machine, a table, and the same figures as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("grpcio", "openvino", "torch", "pillow")


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


class Report:
    """Rows of figures, printed as they come."""

    def __init__(self, name: str, **facts: Any) -> None:
        self._figures: dict[str, Any] = {"benchmark": name, "machine": machine(), **facts, "rows": []}
        print(f"# {name}\n\nmachine: {self._figures['machine']}")
        for fact, value in facts.items():
            print(f"{fact}: {value}")
        print("\n| what | measured | against | ratio | aim |\n| --- | --- | --- | --- | --- |")

    def row(self, what: str, measured: str, against: str = "", ratio: str = "", aim: str = "", **figures: Any) -> None:
        """One line; `figures` are the numbers behind it, for JSON alone."""
        print(f"| {what} | {measured} | {against} | {ratio} | {aim} |", flush=True)
        self._figures["rows"].append(
            {"what": what, "measured": measured, "against": against, "ratio": ratio, "aim": aim, **figures}
        )

    def write(self, path: Path | None) -> None:
        """All of it as one JSON object, where a file was asked for."""
        if path is not None:
            path.write_text(json.dumps(self._figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"\nwritten: {path}", file=sys.stderr)
