"""The whole product as its users run it: a `wentu up` process and a client of its gateway."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from cli.client import Client
from protos import search_pb2 as pb
from protos import types_pb2
from tests.support.servers import free_ports, process

START_SECONDS = 180
CALL_SECONDS = 60


@dataclass
class System:
    """A running `wentu up`."""

    data: Path
    port: int
    flags: Sequence[str]
    client: Client = field(init=False)
    child: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.address)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[System]:
        """A `wentu up` that is ready. It is always stopped at the end."""
        log = self.data / "up.txt"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "cli.main", "up", "--data", str(self.data), "--port", str(self.port)]
        # A service that breaks must not go unnoticed.
        restart = () if "--restart" in self.flags else ("--no-restart",)
        with process([*command, *self.flags, *restart], log) as self.child:
            deadline = time.monotonic() + START_SECONDS
            while "ready" not in log.read_text():
                assert self.child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield self

    def cli(self, *arguments: str, code: int = 0) -> str:
        """Run a `wentu` command and return its output. It must end with exit status `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments, "--gateway", self.address],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def create(self, collection: str, **fields: Any) -> pb.Collection:
        request = pb.CreateCollectionRequest(collection=collection, **fields)
        return self.client.collections.CreateCollection(request, timeout=CALL_SECONDS).collection

    def drop(self, collection: str) -> None:
        self.client.collections.DeleteCollection(
            pb.DeleteCollectionRequest(collection=collection), timeout=CALL_SECONDS
        )

    def count(self, collection: str) -> int:
        request = pb.GetCollectionRequest(collection=collection)
        return self.client.collections.GetCollection(request, timeout=CALL_SECONDS).collection.image_count

    def add(
        self,
        collection: str,
        images: Mapping[str, bytes],
        if_exists: types_pb2.IfExists.ValueType = types_pb2.IF_EXISTS_REPLACE,
    ) -> dict[str, pb.AddImagesResponse]:
        """The outcomes of an AddImages stream, by id."""

        def requests() -> Iterator[pb.AddImagesRequest]:
            yield pb.AddImagesRequest(options=pb.AddImagesOptions(collection=collection, if_exists=if_exists))
            for image_id, data in images.items():
                yield pb.AddImagesRequest(image=types_pb2.ImageUpload(image_id=image_id, data=data))

        return {each.image_id: each for each in self.client.images.AddImages(requests(), timeout=CALL_SECONDS)}

    def search(self, collection: str, text: str, **fields: Any) -> pb.SearchResponse:
        request = pb.SearchRequest(collection=collection, query=pb.Query(text=text), **fields)
        return self.client.search.Search(request, timeout=CALL_SECONDS)

    def search_strong(self, collection: str, text: str, top_k: int = 10) -> list[tuple[str, float]]:
        """Ids and scores of a search that sees every acknowledged write."""
        found = self.search(collection, text, top_k=top_k, consistency=types_pb2.CONSISTENCY_STRONG)
        return [(hit.image_id, hit.score) for hit in found.hits]

    def read(self, collection: str, image_id: str) -> bytes:
        return self.client.read_image(collection, image_id, types_pb2.RENDITION_ORIGINAL)


def new_system(data: Path, *flags: str) -> System:
    data.mkdir(parents=True, exist_ok=True)
    return System(data, free_ports(5), flags)


@dataclass(frozen=True)
class Refusal:
    """A failed call: its status and the details that came with it."""

    code: grpc.StatusCode
    message: str
    reason: str
    fields: tuple[str, ...]
    retry: bool
    metadata: Mapping[str, str]
    domain: str


def refusal(error: Any) -> Refusal:
    """The status and details of a call's RpcError."""
    trailing = dict(error.trailing_metadata() or ())
    details: dict[str, Any] = {}
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                details[kind.__name__] = message
    info = details.get("ErrorInfo", error_details_pb2.ErrorInfo())
    bad = details.get("BadRequest", error_details_pb2.BadRequest())
    return Refusal(
        error.code(),
        error.details(),
        info.reason,
        tuple(violation.field for violation in bad.field_violations),
        "RetryInfo" in details,
        json_format.MessageToDict(info).get("metadata", {}),
        info.domain,
    )
