"""One fuzz of one system: its data, the other caller, the memory of each service, and the faults found."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz import log_lines, memory
from tests.fuzz.attempts import Attempt
from tests.fuzz.calls import Caller, Outcome
from tests.fuzz.contract import Method
from tests.fuzz.guard import contents
from tests.fuzz.judge import judge
from tests.fuzz.world import GUARDED, TEXT, World, made
from tests.support.system import System

SLOW_SECONDS = 0.3


@dataclass
class Arena:
    """The state of one fuzz. Sizes are in MiB, times in seconds."""

    system: System
    world: World
    caller: Caller
    pids: dict[str, int]
    stored: dict[str, tuple[bytes, bytes]]
    probe: subprocess.Popen[str]
    memory_before: dict[str, float]
    log_ends: dict[str, int]
    started: float = field(default_factory=time.time)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ends: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    # (fault, method) -> the shortest request and its answer
    faults: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    # (clock time of the start, of the end, request)
    slow: list[tuple[float, float, str]] = field(default_factory=list)
    spans: list[tuple[float, float, str]] = field(default_factory=list)
    peaks: dict[str, tuple[float, str]] = field(default_factory=dict)
    probed: dict[str, Any] = field(default_factory=dict)

    def attempt(self, attempt: Attempt) -> tuple[str, Outcome]:
        """Make the call. Returns what is wrong with its answer (empty if nothing is), and the answer."""
        started = time.time()
        outcome = self.caller(attempt)
        self.calls[attempt.method.name] += 1
        self.ends["OK" if outcome.error is None else outcome.error.code.name] += 1
        if outcome.seconds > SLOW_SECONDS:
            self.slow.append((started, started + outcome.seconds, repr(attempt)))
        problem = judge(attempt, outcome)
        if problem:
            key, request = (problem, attempt.method.name), repr(attempt)
            if key not in self.faults or len(request) < len(self.faults[key][0]):
                self.faults[key] = request, repr(outcome)
        return problem, outcome

    @contextlib.contextmanager
    def method(self, method: Method) -> Iterator[None]:
        """Record when the method was tried, and the memory that its calls took."""
        started = time.time()
        for pid in self.pids.values():
            memory.reset_peak(pid)
        try:
            yield
        finally:
            self.spans.append((started, time.time(), method.name))
            for name, pid in self.pids.items():
                self.peaks[name] = max(self.peaks.get(name, (0.0, "")), (memory.peak_mib(pid), method.name))

    def others(self) -> dict[str, Any]:
        """End the other caller. Returns what it saw, by kind of call."""
        if not self.probed:
            output, _ = self.probe.communicate(timeout=60)
            self.probed = json.loads(output)
        return self.probed

    def blamed(self, at: float, seconds: float) -> str:
        """The slow calls that ran at that time, or the method that was tried."""
        calls = [request for start, end, request in self.slow if start < at + seconds and end > at]
        return "\n  ".join(calls[-2:] or [name for start, end, name in self.spans if start < at + seconds and end > at])

    def report(self) -> dict[str, Any]:
        """All figures of the run, for a comparison with other runs."""
        return {
            "stores": "embedded" if not self.system.flags else "served",
            "seconds": round(time.time() - self.started, 1),
            "calls": sum(self.calls.values()),
            "methods": len(self.calls),
            "ends": dict(sorted(self.ends.items())),
            "others": {
                name: {key: value for key, value in seen.items() if key not in ("slowest", "failed")}
                for name, seen in self.others().items()
            },
            "memory_mib": {
                name: {
                    "before": self.memory_before[name],
                    "peak": self.peaks.get(name, (0.0, ""))[0],
                    "peak_method": self.peaks.get(name, (0.0, ""))[1],
                    "after": memory.resident_mib(pid),
                }
                for name, pid in self.pids.items()
            },
            "log": log_lines.complaints(self.system, self.log_ends),
            "faults": [
                {"fault": fault, "method": method, "request": request, "answer": answer}
                for (fault, method), (request, answer) in sorted(self.faults.items())
            ],
        }


@contextlib.contextmanager
def arena(system: System) -> Iterator[Arena]:
    """An arena whose data is made and whose other caller runs."""
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(made(system))
        command = [sys.executable, "-m", "tests.fuzz.probe", str(system.port), GUARDED, TEXT]
        probe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(_end, probe)
        caller = Caller(system)
        stack.callback(caller.close)
        running = memory.pids(system)
        before = {name: memory.resident_mib(pid) for name, pid in running.items()}
        yield Arena(system, world, caller, running, contents(system, GUARDED), probe, before, log_lines.ends(system))


def _end(probe: subprocess.Popen[str]) -> None:
    for pipe in (probe.stdin, probe.stdout):
        assert pipe is not None
        pipe.close()
    probe.kill()
    probe.wait()
