"""`wentu up`: the four services as child processes, started in order, watched, and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from cli.errors import CommandError
from services.common.channels import open_channel

STOP_SECONDS = 20.0
POLL_SECONDS = 0.1
TAIL_LINES = 15


class UpError(CommandError):
    """The services cannot run; the message says why."""


@dataclass(frozen=True)
class Service:
    """A service's name, module, port and flags; and the names that its health knows, all of which must serve."""

    name: str
    module: str
    port: int
    flags: tuple[str, ...] = ()
    health: tuple[str, ...] = ("",)


@dataclass
class Child:
    """A running service and the file that its log goes to."""

    service: Service
    process: asyncio.subprocess.Process
    log: Path


def services(
    data: Path,
    host: str,
    port: int,
    model: str,
    milvus: str,
    mysql: str,
    old_model: str = "",
    architecture: str = "",
    precision: str = "",
) -> list[Service]:
    """What to run, in the order of starting: the gateway last. Ports: gateway, then one more for each of the others."""
    encoder, retriever, imagestore, old_encoder = (f"127.0.0.1:{port + offset}" for offset in (1, 2, 3, 4))
    tuned = ("--architecture", architecture) if architecture else ()
    precise = ("--precision", precision) if precision else ()
    old = [Service("old-encoder", "services.encoder", port + 4, ("--model", old_model, *precise))] if old_model else []
    return [
        Service("encoder", "services.encoder", port + 1, ("--model", model, *tuned, *precise)),
        *old,
        Service("retriever", "services.retriever", port + 2, ("--milvus", milvus or str(data / "milvus.db"))),
        Service("imagestore", "services.imagestore", port + 3, ("--database", mysql or str(data / "images.db"))),
        Service(
            "gateway",
            "gateway",
            port,
            (
                *("--host", host, "--encoder", encoder, "--retriever", retriever, "--imagestore", imagestore),
                *(("--other-encoders", old_encoder) if old else ()),
            ),
            # Those that need the other services: the gateway serves before it has reached them.
            tuple(f"wentu.v1.{name}Service" for name in ("Search", "Image", "Collection")),
        ),
    ]


async def up(wanted: Sequence[Service], data: Path, console: Console) -> None:
    """Runs until SIGINT or SIGTERM. Raises UpError where a service dies or does not start: the rest is stopped."""
    for service in wanted:
        check_port_free(service.port)
    logs = data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    children: list[Child] = []
    started = time.monotonic()
    try:
        for service in wanted:
            children.append(await start(service, logs / f"{service.name}.log"))
        ready = asyncio.create_task(_all_ready(children, console))
        await _until(stop, children, ready)
        if not stop.is_set():
            await ready
            _announce(wanted, data, time.monotonic() - started, console)
            await _until(stop, children)
    finally:
        for child in reversed(children):
            await _stop(child)
        console.print("stopped")


def check_port_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UpError(f"port {port} is taken; choose others with --port") from error


async def start(service: Service, log: Path) -> Child:
    """The service as a child in a session of its own, so that a Ctrl-C reaches it in order, through this process.

    It holds the other end of its standard input: should this process die, it ends too.
    """
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            service.module,
            "--port",
            str(service.port),
            "--exit-with-parent",
            *service.flags,
            stdin=asyncio.subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return Child(service, process, log)


async def _until(stop: asyncio.Event, children: Sequence[Child], other: asyncio.Task[None] | None = None) -> None:
    """Returns when `stop` is set or `other` is done. Raises UpError when a child ends."""
    ends = {asyncio.create_task(child.process.wait()): child for child in children}
    stopped = asyncio.create_task(stop.wait())
    waiting: set[asyncio.Task[object]] = {stopped, *ends, *([other] if other else [])}
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopped, *ends):
            task.cancel()
    if stop.is_set():
        return
    for task, child in ends.items():
        if task in done:
            tail = "\n".join(child.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
            code = child.process.returncode
            raise UpError(f"{child.service.name} ended with code {code}; its log, {child.log}, ends with:\n{tail}")


async def _all_ready(children: Sequence[Child], console: Console) -> None:
    await asyncio.gather(*(_ready(child, console) for child in children))


async def _ready(child: Child, console: Console) -> None:
    """Returns when the service says that it serves. However long that takes: it may have a model to download."""
    told = ""
    async with open_channel(f"127.0.0.1:{child.service.port}", direct=True) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                for name in child.service.health:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=2)
                    if answer.status != health_pb2.HealthCheckResponse.SERVING:
                        break
                else:
                    return
            news = _news(child.log)
            if news not in ("", told):
                told = news
                console.print(f"{child.service.name}: {news}", soft_wrap=True)
            await asyncio.sleep(POLL_SECONDS)


def _news(log: Path) -> str:
    """What a service that is not ready yet says in its log that it is doing, where that takes long."""
    lines = log.read_text(errors="replace").splitlines()
    try:
        last = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return ""
    if last.get("event") == "converting":
        return f"preparing {last['model']} for this processor; the next start does without"
    if last.get("event") == "download" and "received_bytes" in last:
        return f"downloading {last['file']}, {last['received_bytes'] / 1e6:,.0f} MB so far"
    return ""


async def _stop(child: Child) -> None:
    """Asks the child to end, and insists after a while."""
    if child.process.returncode is not None:
        return
    child.process.terminate()
    try:
        await asyncio.wait_for(child.process.wait(), STOP_SECONDS)
    except TimeoutError:
        child.process.kill()
        await child.process.wait()


def _announce(wanted: Sequence[Service], data: Path, seconds: float, console: Console) -> None:
    gateway = wanted[-1]
    console.print(f"ready after {seconds:.1f} s; data and logs in {data}", soft_wrap=True)
    for service in reversed(wanted):
        console.print(f"  {service.name:<11} 127.0.0.1:{service.port}")
    console.print(
        f"try: wentu import FOLDER --gateway 127.0.0.1:{gateway.port}; Ctrl-C stops all of it", soft_wrap=True
    )
