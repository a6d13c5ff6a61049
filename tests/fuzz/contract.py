"""Every method of the contract, from the descriptors of `protos`."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

import protos

# Each process and the distance of its port from the gateway's port (cli/up).
PORT_OFFSETS = {"gateway": 0, "encoder": 1, "retriever": 2, "imagestore": 3}
# Methods whose names begin with one of these only read. All other methods are assumed to write.
_READS = ("Get", "List", "Search", "Batch", "Score", "Find", "Verify", "Export", "Encode", "Compare", "Read", "Count")


@dataclass(frozen=True)
class Method:
    """One method."""

    path: str
    service: str
    process: str
    request: Descriptor
    response: Descriptor
    takes_stream: bool
    gives_stream: bool

    @property
    def name(self) -> str:
        """`SearchService.Search`: the key of its template and the id of its test."""
        return f"{self.service}.{self.path.rpartition('/')[2]}"

    @property
    def writes(self) -> bool:
        return not self.path.rpartition("/")[2].startswith(_READS)


def methods() -> tuple[Method, ...]:
    """All methods. The .proto file's name names the process. If no process has that name, it is the gateway."""
    found = []
    for module in pkgutil.iter_modules(protos.__path__):
        if not module.name.endswith("_pb2"):
            continue
        file = importlib.import_module(f"protos.{module.name}").DESCRIPTOR
        stem = module.name.removesuffix("_pb2")
        for service in file.services_by_name.values():
            for each in service.methods:
                found.append(
                    Method(
                        path=f"/{service.full_name}/{each.name}",
                        service=service.name,
                        process=stem if stem in PORT_OFFSETS else "gateway",
                        request=each.input_type,
                        response=each.output_type,
                        takes_stream=each.client_streaming,
                        gives_stream=each.server_streaming,
                    )
                )
    return tuple(found)


def new_message(descriptor: Descriptor) -> Any:
    """An empty message."""
    return message_factory.GetMessageClass(descriptor)()


def parsed(descriptor: Descriptor, data: bytes) -> Message:
    """Raises DecodeError."""
    message: Message = new_message(descriptor)
    message.ParseFromString(data)
    return message
