"""Real servers for the tests, Milvus standalone and MariaDB, each with its own folder and free port."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pymysql
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymilvus import MilvusClient, MilvusException

from services.common.channels import foreign_options, open_sync_channel

START_SECONDS = 120
# pymilvus logs each failed attempt with its stack.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
STOP_SECONDS = 30
SYSTEM_PATHS = ("/usr/sbin", "/usr/local/sbin")


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now.

    They lie below the ports that the system gives to connections. Otherwise a connection could take the port of a
    server that was killed, before the server starts again.
    """
    while True:
        base = random.randrange(20_000, 32_000)
        if all(_is_free(base + offset) for offset in range(count)):
            return base


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def process(
    command: Sequence[str | bytes], log: Path, cwd: str | None = None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process in its own session. It is ended together with all of its children."""
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, cwd=cwd, env={**os.environ, **environment}
        )
    try:
        yield child
    finally:
        end(child)


def end(child: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
    """End the child, and then the rest of its session: Milvus's launcher would leave the server running."""
    if child.poll() is None:
        child.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@dataclass
class Server:
    """A program that can be killed, paused and started again, on the same data and port."""

    name: str
    command: Sequence[str]
    log: Path
    answers: Callable[[], object]
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as file:
            self.child = subprocess.Popen(self.command, stdout=file, stderr=file, start_new_session=True)

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Wait until the program answers."""
        deadline = time.monotonic() + seconds
        while True:
            assert self.child is not None
            try:
                self.answers()
                return
            except (MilvusException, pymysql.err.Error, grpc.RpcError):
                assert self.child.poll() is None, self.log.read_text()[-3000:]
                assert time.monotonic() < deadline, self.log.read_text()[-3000:]
                time.sleep(0.2)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and its children."""
        assert self.child is not None
        os.killpg(self.child.pid, number)

    def kill(self) -> None:
        assert self.child is not None
        self.signal(signal.SIGKILL)
        self.child.wait()

    def stop(self) -> None:
        if self.child is not None:
            end(self.child)

    @contextmanager
    def running(self) -> Iterator[Server]:
        try:
            self.start()
            self.wait()
            yield self
        finally:
            self.stop()


def milvus_server(folder: Path) -> tuple[Server, str]:
    """A Milvus standalone and its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    launcher = Path(__file__).with_name("milvus_launcher.py")
    command = [sys.executable, str(launcher), "--data", str(folder), "--proxy-port", str(port)]

    def answers() -> None:
        client = MilvusClient(address, timeout=5, grpc_options=foreign_options(False))
        client.list_collections()
        client.close()

    return Server("milvus", command, folder / "server.log", answers), address


def mariadb_server(folder: Path, *options: str, data: Path | None = None) -> tuple[Server, str]:
    """A MariaDB server with an empty database, and its address."""
    data = data or folder / "data"
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    # A server that starts removes temporary tables of others from a folder that they share.
    own = ["--no-defaults", f"--datadir={data}", f"--tmpdir={temporary}", f"--user={getpass.getuser()}"]
    if not (data / "mysql").exists():
        install = [_program("mariadb-install-db"), *own, "--auth-root-authentication-method=normal", "--skip-test-db"]
        done = subprocess.run(install, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    port = free_ports(1)
    command = [
        _program("mariadbd"),
        *own,
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        *options,
    ]

    def answers() -> None:
        with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection:
            connection.cursor().execute("CREATE DATABASE IF NOT EXISTS wentu CHARACTER SET utf8mb4")

    return Server("mariadb", command, folder / "server.log", answers), f"mysql://root@127.0.0.1:{port}/wentu"


@contextmanager
def mariadb(folder: Path, *options: str) -> Iterator[str]:
    """A running MariaDB server; yields its address."""
    server, address = mariadb_server(folder, *options)
    with server.running():
        yield address


def service(folder: Path, name: str, module: str, *flags: str) -> tuple[Server, str]:
    """One of the services, and its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_ports(1)
    address = f"127.0.0.1:{port}"

    def answers() -> None:
        with open_sync_channel(address, direct=True) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            found = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
        if found.status != health_pb2.HealthCheckResponse.SERVING:
            raise grpc.RpcError

    command = [sys.executable, "-m", module, "--port", str(port), *flags]
    return Server(name, command, folder / f"{name}.log", answers), address


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *SYSTEM_PATHS]))
    assert found, f"{name} is missing: scripts/install-mariadb.sh installs it"
    return found
