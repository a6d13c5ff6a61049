"""The image store while its database is paused, loses its connections, or has a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pymysql
import pytest
from grpc import aio
from pydantic import SecretStr

from protos import imagestore_pb2 as pb
from protos import imagestore_pb2_grpc
from services.imagestore.__main__ import running
from services.imagestore.settings import ImageStoreSettings
from tests.support import servers
from tests.support.images import noise
from tests.support.servers import Server
from tests.support.system import refusal

if TYPE_CHECKING:  # the asynchronous stubs exist for type checkers alone
    Stub = imagestore_pb2_grpc.ImageStoreServiceAsyncStub

# `make chaos` pauses for 20 s.
PAUSE_SECONDS = float(os.environ.get("WENTU_TEST_PAUSE_SECONDS", "6"))
DEADLINE_SECONDS = 2.0
RECOVERY_SECONDS = 10.0
KILLS = 20
NO_SUCH_THREAD = 1094
ROOM_MIB = 400
# Free space that InnoDB needs at its start.
LEFT_MIB = 40
FULL_SECONDS = 60.0
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@asynccontextmanager
async def imagestore(database: str) -> AsyncIterator[Stub]:
    settings = ImageStoreSettings(port=0, database=SecretStr(database), shutdown_grace_seconds=0)
    async with running(settings) as port, aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield imagestore_pb2_grpc.ImageStoreServiceStub(channel)


async def put(stub: Stub, image_id: str, data: bytes, seconds: float = DEADLINE_SECONDS) -> None:
    blob = pb.BlobUpload(image_id=image_id, data=data)
    await stub.PutBlobs(pb.PutBlobsRequest(collection="c", blobs=[blob]), timeout=seconds)


async def stored(stub: Stub) -> set[str]:
    found: set[str] = set()
    token = ""
    while True:
        page = await stub.ListBlobs(pb.ListBlobsRequest(collection="c", page_size=1000, page_token=token))
        found |= {blob.info.image_id for blob in page.blobs}
        if not (token := page.next_page_token):
            return found


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[tuple[Server, str]]:
    server, address = servers.mariadb_server(tmp_path)
    with server.running():
        yield server, address


async def test_a_database_that_is_paused(mariadb: tuple[Server, str]) -> None:
    server, address = mariadb
    async with imagestore(address) as stub:
        await put(stub, "before", noise(0))
        server.signal(signal.SIGSTOP)
        try:
            paused = time.monotonic()
            number = 0
            while time.monotonic() - paused < PAUSE_SECONDS:
                number += 1
                started = time.monotonic()
                with pytest.raises(aio.AioRpcError) as caught:
                    await put(stub, f"paused {number}", noise(number))
                assert caught.value.code() in PASSING
                assert time.monotonic() - started < DEADLINE_SECONDS + 0.5, "an answer comes by the deadline"
        finally:
            server.signal(signal.SIGCONT)
        resumed = time.monotonic()
        while True:
            try:
                await put(stub, "after", noise(1))
                break
            except aio.AioRpcError as error:
                if error.code() not in PASSING or time.monotonic() - resumed > RECOVERY_SECONDS:
                    raise
        # A write that was not acknowledged may be stored or not.
        assert {"before", "after"} <= await stored(stub)


async def test_connections_that_are_killed(mariadb: tuple[Server, str]) -> None:
    _, address = mariadb
    port = int(address.rpartition(":")[2].partition("/")[0])
    async with imagestore(address) as stub:
        acknowledged: set[str] = set()
        failures: list[grpc.StatusCode] = []
        stopped = False

        async def writer(name: int) -> None:
            number = 0
            while not stopped:
                number += 1
                image_id = f"{name} {number}"
                try:
                    await put(stub, image_id, noise(number))
                except aio.AioRpcError as error:
                    failures.append(error.code())
                else:
                    acknowledged.add(image_id)

        writers = [asyncio.create_task(writer(name)) for name in range(4)]
        for _ in range(KILLS):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(kill_connections, port)
        stopped = True
        await asyncio.gather(*writers)
        assert set(failures) <= set(PASSING)
        assert len(acknowledged) > len(failures)
        assert acknowledged <= await stored(stub)
        await asyncio.to_thread(kill_connections, port)
        await put(stub, "after", noise(1))  # each connection is tested before it is used
        await asyncio.to_thread(kill_connections, port)
        assert "after" in await stored(stub)


def kill_connections(port: int) -> None:
    with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = 'wentu'")
        for (number,) in cursor.fetchall():
            try:
                cursor.execute(f"KILL {number}")
            except pymysql.err.OperationalError as error:
                if error.args[0] != NO_SUCH_THREAD:
                    raise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system for this test alone, of some hundred MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
async def test_a_disk_that_is_full(kind: str, small_disk: Path, tmp_path: Path) -> None:
    filler = small_disk / "filler"
    if kind == "sqlite":
        fill(filler)
        await fill_up_and_recover(str(small_disk / "images.db"), filler, lambda: None, "its disk is full")
        return
    server, address = servers.mariadb_server(
        tmp_path, "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=64M", data=small_disk / "data"
    )
    with server.running():
        fill(filler)

        def again() -> None:
            """Restart the server, as a supervisor does: InnoDB ends itself if the disk has no space for a page."""
            assert server.child is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.child.wait(10)
            if server.child.poll() is not None:
                server.start()
                server.wait()

        await fill_up_and_recover(address, filler, again, "mariadb is unavailable")


def fill(filler: Path) -> None:
    free = shutil.disk_usage(filler.parent).free - LEFT_MIB * 2**20
    assert free > 0
    with filler.open("wb") as file:
        for _ in range(free // 2**20):
            file.write(bytes(2**20))


async def fill_up_and_recover(database: str, filler: Path, again: Callable[[], None], message: str) -> None:
    async with imagestore(database) as stub:
        written: dict[str, bytes] = {}
        refused = None
        while refused is None:
            image_id, data = f"{len(written)}", os.urandom(2**20)
            try:
                await put(stub, image_id, data, FULL_SECONDS)
                written[image_id] = data
            except aio.AioRpcError as error:
                refused = refusal(error)
            assert len(written) < 2 * LEFT_MIB, "the disk does not fill up"
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        assert message in refused.message
        await asyncio.to_thread(filler.unlink)
        await asyncio.to_thread(again)
        await put(stub, "after", noise(1), FULL_SECONDS)
        assert {*written, "after"} <= await stored(stub)
        for image_id, data in written.items():
            found = await stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=[image_id], include_data=True))
            assert found.blobs[0].data == data
