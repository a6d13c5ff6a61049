"""One service as a child process: its start, its end, its health, and what its log says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.up.services import Service
from services.common.channels import open_channel

STOP_SECONDS = 20.0
CHECK_SECONDS = 2.0
# The size of the end of a log that is searched for a cause.
TAIL_BYTES = 16 * 1024
LINE_CHARS = 300


@dataclass
class Child:
    """A running service, and its log: the file, and where in it this run begins."""

    service: Service
    process: asyncio.subprocess.Process
    log: Path
    log_start: int
    started: float = field(default_factory=time.monotonic)

    def age_seconds(self) -> float:
        return time.monotonic() - self.started

    def log_tail(self) -> list[str]:
        """The last lines of the log of this run."""
        with self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self.log_start, end - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()

    def news(self) -> str:
        """What the service reports while a long start takes place."""
        lines = self.log_tail()
        last = _entry(lines[-1]) if lines else {}
        if last.get("event") == "converting":
            return f"preparing {last['model']} for this processor; the next start does without"
        if last.get("event") == "download" and "received_bytes" in last:
            return f"downloading {last['file']}, {last['received_bytes'] / 1e6:,.0f} MB so far"
        return ""

    def end(self) -> str:
        """How the service ended, with the cause if its log has one."""
        code = self.process.returncode or 0
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        why = next(filter(None, map(_last_words, reversed(self.log_tail()))), "")
        return f"ended with code {code}" + (f": {why}" if why else "")


async def start(service: Service, log: Path) -> Child:
    """The service in a session of its own, so that a Ctrl-C reaches it in order, through this process.

    It holds the other end of its standard input: should this process die, it ends too.
    """
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", service.module, "--host", service.place.host, "--port", str(service.place.port)),
            "--exit-with-parent",
            env=service.environment(os.environ),
            stdin=asyncio.subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        return Child(service, process, log, file.tell())


async def stop(child: Child) -> None:
    """Ask the child to end, and kill it if it does not."""
    if child.process.returncode is not None:
        return
    child.process.terminate()
    try:
        await asyncio.wait_for(child.process.wait(), STOP_SECONDS)
    except TimeoutError:
        await kill(child)


async def kill(child: Child) -> None:
    if child.process.returncode is None:
        child.process.kill()
        await child.process.wait()


class Health:
    """Asks a child's health service."""

    def __init__(self, child: Child, channel: grpc.aio.Channel) -> None:
        self._names = child.service.health
        self._stub: Any = health_pb2_grpc.HealthStub(channel)

    async def serves(self) -> bool:
        """Whether all health names of the service serve."""
        try:
            for name in self._names:
                if not await self._serves(name):
                    return False
        except grpc.aio.AioRpcError:
            return False
        return True

    async def state(self) -> bool | None:
        """Whether the whole process serves. None if it does not answer."""
        try:
            return await self._serves("")
        except grpc.aio.AioRpcError:
            return None

    async def _serves(self, name: str) -> bool:
        answer = await self._stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=CHECK_SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def health(child: Child) -> AsyncIterator[Health]:
    """The health of a running child."""
    # An earlier child had the same address. Its connection must not be reused.
    async with open_channel(child.service.place.address, direct=True, own_connection=True) as channel:
        yield Health(child, channel)


def _entry(line: str) -> dict[str, Any]:
    """A line of the log as JSON; empty if it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _last_words(line: str) -> str:
    """The cause of a service's end in a line of the log. Empty if the line is about something else."""
    entry = _entry(line)
    if entry.get("event") == "crashed":
        line = str(entry.get("exception", "")).strip().rpartition("\n")[2]
    elif entry:
        line = str(entry["line"]) if entry.get("event") == "stderr" and "line" in entry else ""
    return line.strip()[:LINE_CHARS]
