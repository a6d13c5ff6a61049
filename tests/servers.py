"""Real servers for the tests, each on a folder and a free port of its own: Milvus standalone and MariaDB."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pymysql
from pymilvus import MilvusClient, MilvusException

START_SECONDS = 120
STOP_SECONDS = 30
SYSTEM_PATHS = ("/usr/sbin", "/usr/local/sbin")


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            base = int(probe.getsockname()[1])
        if base + count < 65536 and all(_is_free(base + offset) for offset in range(count)):
            return base


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def process(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, ended with all of its children."""
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, env={**os.environ, **environment}
        )
    try:
        yield child
    finally:
        end(child)


def end(child: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
    """Ends the child, and then whatever is left of its session: Milvus's launcher leaves the server behind."""
    if child.poll() is None:
        child.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextmanager
def milvus(folder: Path) -> Iterator[str]:
    """A Milvus standalone; yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_ports(1)
    command = [str(Path(sys.executable).with_name("milvus-server")), "--data", str(folder), "--proxy-port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with process(command, folder / "server.log") as child:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                client = MilvusClient(address, timeout=5)
                client.list_collections()
                client.close()
                break
            except MilvusException:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield address


@contextmanager
def mariadb(folder: Path, *options: str) -> Iterator[str]:
    """A MariaDB server with an empty database; yields its address."""
    data = folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    user = getpass.getuser()
    if not data.exists():
        subprocess.run(
            [
                _program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={data}",
                f"--user={user}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
        )
    port = free_ports(1)
    command = [
        _program("mariadbd"),
        "--no-defaults",
        f"--datadir={data}",
        f"--user={user}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        *options,
    ]
    with process(command, folder / "server.log") as child:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection:
                    connection.cursor().execute("CREATE DATABASE IF NOT EXISTS wentu CHARACTER SET utf8mb4")
                break
            except pymysql.err.OperationalError:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield f"mysql://root@127.0.0.1:{port}/wentu"


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *SYSTEM_PATHS]))
    assert found, f"{name} is missing: scripts/install-mariadb.sh installs it"
    return found
