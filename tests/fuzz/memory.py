"""The processes of a system and their memory, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.contract import PORT_OFFSETS
from tests.support.system import System

MODULES = {name: "gateway" if name == "gateway" else f"services.{name}" for name in PORT_OFFSETS}


def pids(system: System) -> dict[str, int]:
    """The process of each service, by its name."""
    parent = system.child.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in children}
    return {
        name: next(pid for pid, words in commands.items() if words[1:3] == ["-m", module])
        for name, module in MODULES.items()
    }


def resident_mib(pid: int) -> float:
    """The resident memory of a process now, in MiB."""
    return _mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """The largest resident memory since the last reset_peak, in MiB."""
    return _mib(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return round(int(line.split()[1]) / 1024, 1)
