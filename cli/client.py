"""The command line's connection to a gateway."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import grpc

from cli.errors import CommandError
from protos import admin_pb2_grpc, search_pb2_grpc, types_pb2
from protos import search_pb2 as pb
from services.common.channels import open_sync_channel

T = TypeVar("T")
TIMEOUT_SECONDS = 60.0
# A gateway that does not answer a ping for this long hangs. A ping is sent after half of this time without an answer.
DEFAULT_HANG_SECONDS = 30.0


def hang_seconds() -> float:
    """WENTU_HANG_SECONDS, at least 10, since servers treat more frequent pings as an attack."""
    given = os.environ.get("WENTU_HANG_SECONDS", "")
    try:
        return max(10.0, float(given or DEFAULT_HANG_SECONDS))
    except ValueError as error:
        raise CommandError(f"WENTU_HANG_SECONDS is {given!r}; it must be a number of seconds") from error


def use_proxy() -> bool:
    """WENTU_USE_PROXY: whether a gateway is called through the proxy that the environment names."""
    return os.environ.get("WENTU_USE_PROXY", "").lower() in ("1", "true", "yes", "on")


class Client:
    """The stubs of one gateway."""

    def __init__(self, address: str) -> None:
        half = hang_seconds() / 2
        self.address = address
        self.channel = open_sync_channel(
            address, direct=True, use_proxy=use_proxy(), silence_seconds=half, ping_seconds=half
        )
        self.search = search_pb2_grpc.SearchServiceStub(self.channel)
        self.images = search_pb2_grpc.ImageServiceStub(self.channel)
        self.collections = search_pb2_grpc.CollectionServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def read_image(self, collection: str, image_id: str, rendition: types_pb2.Rendition.ValueType) -> bytes:
        """The bytes of one image. Raises CommandError if fewer come than the gateway announced."""
        request = pb.GetImageRequest(collection=collection, image_id=image_id, rendition=rendition)
        size, chunks = 0, []
        for part in self.images.GetImage(request, timeout=TIMEOUT_SECONDS):
            if part.WhichOneof("part") == "info":
                size = part.info.size_bytes
            else:
                chunks.append(part.chunk)
        data = b"".join(chunks)
        if len(data) != size:
            raise CommandError(f"{image_id}: the gateway announced {size:,} bytes and sent {len(data):,}")
        return data


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client that is closed at the end of the block."""
    client = Client(address)
    try:
        yield client
    except grpc.RpcError as error:
        raise CommandError(explain(error, address)) from error
    finally:
        client.channel.close()


class Requests(Generic[T]):
    """The requests of a stream. gRPC hides the cause if an iterator raises. So this one ends and stores the cause."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self.error: Exception | None = None
        # Called if the items fail and the call must therefore not succeed.
        self.on_error: Callable[[], object] | None = None

    def __iter__(self) -> Iterator[T]:
        try:
            yield from self._items
        except Exception as error:
            self.error = error
            if self.on_error is not None:
                self.on_error()


def word(words: Mapping[Any, str], value: int) -> str:
    """The word for an enum's value. A newer server may send a value that this version does not know."""
    return words.get(value, f"unknown ({value})")


def explain(error: grpc.RpcError, address: str = "the gateway") -> str:
    """One line about a failed call: the server's message, or the problem of the connection."""
    if not isinstance(error, grpc.Call):
        return f"the call to {address} failed: {error}"
    name, details = error.code().name, error.details() or ""
    if any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ()):
        return f"{name}: {details}"
    lower = details.lower()
    if name == "DEADLINE_EXCEEDED":
        return f"{address} did not answer within {TIMEOUT_SECONDS:.0f} s: it hangs, or is overloaded"
    if name == "UNAVAILABLE" and any(words in lower for words in ("ping timeout", "keepalive", "settings frame")):
        return f"{address} hangs: it is connected and does not answer (WENTU_HANG_SECONDS is {hang_seconds():.0f})"
    if name == "UNAVAILABLE" and any(words in lower for words in ("failed to connect", "refused", "dns", "resol")):
        return f"no gateway answers at {address}; is it running? (wentu up) [{details}]"
    if name == "UNAVAILABLE":
        return f"the connection to {address} broke: {details}"
    if name == "RESOURCE_EXHAUSTED" and "larger than max" in lower:
        return f"a message is larger than {address} or this program takes: {details}"
    return f"{name}: {details}"
