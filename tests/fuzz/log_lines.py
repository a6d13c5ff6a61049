"""Checks the services' logs: each line is JSON, and none is an error, since callers cannot cause one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.fuzz.contract import PORT_OFFSETS
from tests.support.system import System

SHOWN_CHARS = 400


def ends(system: System) -> dict[str, int]:
    """Where each service's log ends now, in bytes."""
    return {name: _path(system, name).stat().st_size for name in PORT_OFFSETS}


def complaints(system: System, begins: dict[str, int]) -> dict[str, tuple[int, str]]:
    """Each kind of line that should not be there, with its count and its first example."""
    found: dict[str, tuple[int, str]] = {}
    for name, begin in begins.items():
        for line in _path(system, name).read_bytes()[begin:].decode(errors="replace").splitlines():
            if what := _complaint(line):
                kind = f"{name}: {re.sub(r'0x[0-9a-f]+|[0-9]+|/wentu[^ ]*', '*', what)[:80]}"
                count, first = found.get(kind, (0, what))
                found[kind] = count + 1, first
    return found


def _complaint(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return f"not JSON: {line[:SHOWN_CHARS]}"
    if record.get("level") not in ("error", "critical") and "exception" not in record:
        return ""
    last = str(record.get("exception", "")).strip().rpartition("\n")[2]
    return f"{last[:SHOWN_CHARS]} | {str(record.get('event'))[:SHOWN_CHARS]} {record.get('method', '')}"


def _path(system: System, name: str) -> Path:
    return system.data / "logs" / f"{name}.log"
