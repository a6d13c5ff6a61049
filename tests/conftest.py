"""Running systems, shared by the whole session: one on embedded stores, one on real servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import servers
from tests.support.servers import Server
from tests.support.system import System, new_system

# A busy machine is slow. That is not a fault of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# Parameter values of tests that use a Milvus server.
ON_MILVUS = frozenset({"served", "server"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the Milvus server, so that two processes can share the suite (scripts/test.sh)."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        fixtures = getattr(item, "fixturenames", ())
        if "milvus" in fixtures or any(value in ON_MILVUS for value in parameters if isinstance(value, str)):
            item.add_marker(pytest.mark.milvus)


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A Milvus standalone and its address. Two cannot run on one machine: both use etcd's port."""
    server, address = servers.milvus_server(tmp_path_factory.mktemp("milvus"))
    with server.running():
        yield server, address


@pytest.fixture(scope="session")
def milvus_address(milvus: tuple[Server, str]) -> str:
    return milvus[1]


@pytest.fixture(scope="session")
def mariadb_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.mariadb(tmp_path_factory.mktemp("mariadb")) as address:
        yield address


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """`wentu up` on Milvus Lite and SQLite."""
    with new_system(tmp_path_factory.mktemp("embedded")).running() as system:
        yield system


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, milvus_address: str, mariadb_address: str) -> Iterator[System]:
    """`wentu up` on a Milvus server and MariaDB."""
    data = tmp_path_factory.mktemp("served")
    with new_system(data, "--milvus", milvus_address, "--mysql", mariadb_address).running() as system:
        yield system


@pytest.fixture(params=["embedded", "served"], scope="session")
def system(request: pytest.FixtureRequest) -> System:
    """Each of the two systems in turn."""
    found: System = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def collection(system: System) -> Iterator[str]:
    """An empty collection for this test alone."""
    name = f"t{uuid.uuid4().hex[:12]}"
    system.create(name)
    yield name
    system.drop(name)


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root."""
    return Path(__file__).parent.parent
