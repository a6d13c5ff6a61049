"""Server reflection, by both of its names: v1, and v1alpha, which older clients ask for. Their messages are the same.

grpcio-reflection has v1alpha alone, and does not find methods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2 as pb

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHOD = "ServerReflectionInfo"


class Reflection:
    """Answers what the services are, and with the files that describe them."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._pool: Any = descriptor_pool.Default()

    async def info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """One answer a question; a question that has none is answered NOT_FOUND, and the stream goes on."""
        async for request in requests:
            answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                self._answer(request, answer)
            except KeyError:
                answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
                answer.error_response.error_message = "not found"
            yield answer

    def _answer(self, request: pb.ServerReflectionRequest, answer: pb.ServerReflectionResponse) -> None:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            services = [pb.ServiceResponse(name=name) for name in self._services]
            answer.list_services_response.service.extend(services)
        elif kind == "file_by_filename":
            self._describe(self._pool.FindFileByName(request.file_by_filename), answer)
        elif kind == "file_containing_symbol":
            self._describe(self._file_of(request.file_containing_symbol), answer)
        elif kind == "file_containing_extension":
            wanted = request.file_containing_extension
            message = self._pool.FindMessageTypeByName(wanted.containing_type)
            self._describe(self._pool.FindExtensionByNumber(message, wanted.extension_number).file, answer)
        elif kind == "all_extension_numbers_of_type":
            message = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
            numbers = sorted(each.number for each in self._pool.FindAllExtensions(message))
            answer.all_extension_numbers_response.base_type_name = message.full_name
            answer.all_extension_numbers_response.extension_number.extend(numbers)
        else:
            raise KeyError(kind)

    def _file_of(self, symbol: str) -> Any:
        """The file that has a message, field, enum, value, service or method. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # of a method the pool knows nothing, and a value stands beside its enum, not in it
            parent, _, name = symbol.rpartition(".")
        for find in (self._method_in, self._value_in):
            if (file := find(parent, name)) is not None:
                return file
        raise KeyError(symbol)

    def _method_in(self, service: str, name: str) -> Any:
        return self._member(self._pool.FindServiceByName, service, "methods_by_name", name)

    def _value_in(self, enum: str, name: str) -> Any:
        return self._member(self._pool.FindEnumTypeByName, enum, "values_by_name", name)

    def _member(self, find: Callable[[str], Any], parent: str, members: str, name: str) -> Any:
        try:
            found = find(parent)
        except KeyError:
            return None
        return found.file if name in getattr(found, members) else None

    def _describe(self, file: Any, answer: pb.ServerReflectionResponse) -> None:
        """The file, and all that it imports, each after what it needs."""
        files: dict[str, bytes] = {}
        _collect(file, files)
        # The file that was asked for comes first.
        answer.file_descriptor_response.file_descriptor_proto.extend(reversed(files.values()))


def _collect(file: Any, files: dict[str, bytes]) -> None:
    for needed in file.dependencies:
        if needed.name not in files:
            _collect(needed, files)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    files[file.name] = proto.SerializeToString()


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
