"""The command line's connection to a gateway."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from protos import admin_pb2_grpc, search_pb2_grpc, types_pb2
from protos import search_pb2 as pb
from services.common.settings import MIB

MAX_MESSAGE_BYTES = 64 * MIB
TIMEOUT_SECONDS = 60.0


class Client:
    """The stubs of one gateway."""

    def __init__(self, address: str) -> None:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        self.channel = grpc.insecure_channel(address, options)
        self.search = search_pb2_grpc.SearchServiceStub(self.channel)
        self.images = search_pb2_grpc.ImageServiceStub(self.channel)
        self.collections = search_pb2_grpc.CollectionServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def read_image(self, collection: str, image_id: str, *, thumbnail: bool) -> bytes:
        """The bytes of one picture."""
        rendition = types_pb2.RENDITION_THUMBNAIL if thumbnail else types_pb2.RENDITION_ORIGINAL
        request = pb.GetImageRequest(collection=collection, image_id=image_id, rendition=rendition)
        return b"".join(part.chunk for part in self.images.GetImage(request, timeout=TIMEOUT_SECONDS))


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client; a failed call ends the program with one line and code 1."""
    client = Client(address)
    try:
        yield client
    except grpc.RpcError as error:
        call: grpc.Call = error  # type: ignore[assignment]  # every RpcError of a call is one
        name = call.code().name
        if name == "UNAVAILABLE" and not _answered(call):
            sys.exit(f"wentu: no gateway answers at {address}; is it running? (wentu up)")
        sys.exit(f"wentu: {name}: {call.details()}")
    finally:
        client.channel.close()


def _answered(call: grpc.Call) -> bool:
    return any(key == "grpc-status-details-bin" for key, _ in call.trailing_metadata() or ())
