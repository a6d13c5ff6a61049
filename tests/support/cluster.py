"""The whole product on real servers, with two replicas of what may have replicas. Tests can kill every process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.client import Client
from tests.support import servers
from tests.support.servers import Server


@dataclass
class Cluster:
    """Two gateways and two retrievers, an encoder and an image store, on one Milvus and one MariaDB."""

    parts: dict[str, Server]
    gateways: list[Client]
    retriever: str

    def wait(self) -> None:
        for part in self.parts.values():
            part.wait()


@contextmanager
def running(folder: Path, milvus: tuple[Server, str], model: str = "demo", old_model: str = "") -> Iterator[Cluster]:
    """A started cluster. `old_model` adds an encoder for collections that still have that model."""
    with ExitStack() as stack:
        mariadb, database = servers.mariadb_server(folder / "mariadb")
        parts = {"milvus": milvus[0], "mariadb": stack.enter_context(mariadb.running())}

        def service(name: str, module: str, *flags: str) -> str:
            part, address = servers.service(folder, name, module, *flags)
            parts[name] = stack.enter_context(part.running())
            return address

        encoder = service("encoder", "services.encoder", "--model", model)
        old = service("old-encoder", "services.encoder", "--model", old_model) if old_model else ""
        retrievers = [service(f"retriever-{n}", "services.retriever", "--milvus", milvus[1]) for n in (1, 2)]
        imagestore = service("imagestore", "services.imagestore", "--database", database)
        gateways = [
            service(
                f"gateway-{number}",
                "gateway",
                *("--encoder", encoder, "--retriever", retriever, "--imagestore", imagestore),
                *("--other-encoders", old, "--timeout-seconds", "20"),
            )
            for number, retriever in enumerate(retrievers, start=1)
        ]
        clients = [Client(address) for address in gateways]
        for client in clients:
            stack.callback(client.channel.close)
        yield Cluster(parts, clients, retrievers[0])
