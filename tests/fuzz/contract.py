"""Every method of the contract, as the descriptors of `protos` tell them."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

import protos

# The processes, and how far their ports are from the gateway's (cli/up.py).
PORT_OFFSETS = {"gateway": 0, "encoder": 1, "retriever": 2, "imagestore": 3}
# What these begin changes nothing. A method with any other name is taken to write.
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
    """All of them. The process is the one of the .proto file's name, else the gateway."""
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
