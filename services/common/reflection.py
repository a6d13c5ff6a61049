"""Server reflection under both of its names: v1, and v1alpha for older clients. Their messages are the same.

grpcio-reflection has only v1alpha, and does not find methods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2 as pb

OLD, NEW = "grpc.reflection.v1alpha", "grpc.reflection.v1"
NAMES = tuple(f"{package}.ServerReflection" for package in (NEW, OLD))
METHOD = "ServerReflectionInfo"


class Reflection:
    """Answers with the names of the services and the files that describe them."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._pools: list[Any] = [descriptor_pool.Default(), _new_pool()]

    async def info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """One answer per request. If there is no answer, it is NOT_FOUND, and the stream goes on."""
        async for request in requests:
            answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
            if not any(_found(pool, self._services, request, answer) for pool in self._pools):
                answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
                answer.error_response.error_message = "not found"
            yield answer


def _new_pool() -> Any:
    """A descriptor pool with the file of v1, copied from v1alpha."""
    old = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(old)
    new = json_format.Parse(json_format.MessageToJson(old).replace(OLD, NEW), descriptor_pb2.FileDescriptorProto())
    new.name = NEW.replace(".", "/") + "/reflection.proto"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(new)
    return pool


def _found(pool: Any, services: list[str], request: Any, answer: pb.ServerReflectionResponse) -> bool:
    """Fill in the answer. Returns whether the pool has one."""
    kind = request.WhichOneof("message_request")
    try:
        if kind == "list_services":
            answer.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in services)
        elif kind == "file_by_filename":
            _describe(pool.FindFileByName(request.file_by_filename), answer)
        elif kind == "file_containing_symbol":
            _describe(_file_of(pool, request.file_containing_symbol), answer)
        elif kind == "file_containing_extension":
            wanted = request.file_containing_extension
            message = pool.FindMessageTypeByName(wanted.containing_type)
            _describe(pool.FindExtensionByNumber(message, wanted.extension_number).file, answer)
        elif kind == "all_extension_numbers_of_type":
            message = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
            answer.all_extension_numbers_response.base_type_name = message.full_name
            numbers = sorted(each.number for each in pool.FindAllExtensions(message))
            answer.all_extension_numbers_response.extension_number.extend(numbers)
        else:
            return False
    except KeyError:
        return False
    return True


def _file_of(pool: Any, symbol: str) -> Any:
    """The file that has a message, field, enum, value, service or method. Raises KeyError."""
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:  # the pool does not find methods, and finds enum values only beside their enum
        parent, _, name = symbol.rpartition(".")
    for find, members in ((pool.FindServiceByName, "methods_by_name"), (pool.FindEnumTypeByName, "values_by_name")):
        try:
            found = find(parent)
        except KeyError:
            continue
        if name in getattr(found, members):
            return found.file
    raise KeyError(symbol)


def _describe(file: Any, answer: pb.ServerReflectionResponse) -> None:
    """The file, followed by all files that it imports."""
    files: dict[str, bytes] = {}
    waiting = [file]
    while waiting:
        each = waiting.pop()
        if each.name not in files:
            proto = descriptor_pb2.FileDescriptorProto()
            each.CopyToProto(proto)
            files[each.name] = proto.SerializeToString()
            waiting.extend(each.dependencies)
    answer.file_descriptor_response.file_descriptor_proto.extend(files.values())


def add_reflection(server: aio.Server, services: Iterable[str]) -> None:
    """Reflection of `services` and of itself."""
    handler = grpc.stream_stream_rpc_method_handler(
        Reflection((*services, *NAMES)).info,
        request_deserializer=pb.ServerReflectionRequest.FromString,
        response_serializer=pb.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {METHOD: handler}) for name in NAMES)
    )
