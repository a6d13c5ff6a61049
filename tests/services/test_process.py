"""A service as a process: one that cannot start, and one that hangs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc import aio

from protos import imagestore_pb2 as pb
from protos import imagestore_pb2_grpc
from services.common.channels import open_channel
from tests.support import servers
from tests.support.servers import Server

Running = tuple[Server, str]


@pytest.fixture(scope="module")
def imagestore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("imagestore")
    server, address = servers.service(folder, "imagestore", "services.imagestore", "--database", str(folder / "i.db"))
    with server.running():
        yield server, address


@pytest.mark.parametrize("direct", [True, False])
async def test_a_call_to_a_service_that_hangs_ends_long_before_its_deadline(imagestore: Running, direct: bool) -> None:
    server, address = imagestore
    async with open_channel(address, direct=direct, silence_seconds=0.5, ping_seconds=0.5) as channel:
        stub = imagestore_pb2_grpc.ImageStoreServiceStub(channel)
        await stub.GetBlobStore(pb.GetBlobStoreRequest(), wait_for_ready=True, timeout=30)
        server.signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.GetBlobStore(pb.GetBlobStoreRequest(), timeout=50)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - started < 20  # without the ping's own limit it would be a minute
        finally:
            server.signal(signal.SIGCONT)


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_a_port_that_is_taken_is_one_line(imagestore: Running, tmp_path: Path, flag: str) -> None:
    port = imagestore[1].rpartition(":")[2]
    command = [sys.executable, "-m", "services.imagestore", "--port", "0", "--database", str(tmp_path / "i.db")]
    done = subprocess.run(
        [*command, "--log-format", "console", flag, port], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("wentu-imagestore: cannot ")
    assert f"127.0.0.1:{port}" in done.stderr.splitlines()[-1]
