"""Leftovers of an interruption are shown in the status and in a metric, with the remedy."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.client import Client
from protos import admin_pb2
from services.common.probe import is_serving
from tests.support.images import noise
from tests.support.servers import free_ports, process
from tests.support.system import CALL_SECONDS, System
from tests.system.test_maintenance import put, reconcile

SECONDS = 20


@contextmanager
def counting_gateway(system: System, folder: Path) -> Iterator[tuple[str, str]]:
    """A second gateway that counts all the time: its address, and the address of its metrics."""
    port = free_ports(2)
    command = [sys.executable, "-m", "gateway", "--port", str(port), "--metrics-port", str(port + 1)]
    command += ["--count-seconds", "0.2"]
    for offset, name in enumerate(("encoder", "retriever", "imagestore"), start=1):
        command += [f"--{name}", f"127.0.0.1:{system.port + offset}"]
    with process(command, folder / "gateway.log"):
        wait_for(lambda: is_serving(f"127.0.0.1:{port}"))
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}/metrics"


def wait_for(passes: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not passes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("system", ["embedded"], indirect=True)
def test_images_without_vectors_are_told_until_they_are_repaired(
    system: System, collection: str, tmp_path: Path
) -> None:
    system.add(collection, {"whole": noise(1)})
    put(system, collection, {"cut off": noise(2), "cut off too": noise(3)})
    with counting_gateway(system, tmp_path) as (address, metrics):
        client = Client(address)

        def told() -> list[tuple[str, int, int]]:
            status = client.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_SECONDS)
            return [(each.collection, each.image_count, each.vector_count) for each in status.differences]

        def measured() -> str:
            with urllib.request.urlopen(metrics, timeout=5) as answer:
                return str(answer.read().decode())

        gauge = f'wentu_gateway_store_difference{{collection="{collection}"}}'
        wait_for(lambda: (collection, 3, 1) in told())
        assert f"{gauge} 2.0" in measured()
        command = [sys.executable, "-m", "cli.main", "status", "--gateway", address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"{collection}: 3 images and 1 vectors; wentu reconcile {collection} repairs it" in done.stdout
        assert set(reconcile(system, collection)) == {"cut off", "cut off too"}
        wait_for(lambda: collection not in {each[0] for each in told()})
        assert gauge not in measured()
