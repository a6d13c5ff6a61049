"""What the interceptor of every server measures."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from protos import imagestore_pb2 as pb
from services.common.call_metrics import CallMetrics
from services.common.errors import ImageNotFound
from services.common.interceptors import ServiceInterceptor
from services.common.reception import Reception
from services.common.settings import ServerSettings

SERVICE = "wentu.v1.ImageStoreService"


class Call:
    """Stands for gRPC's context of one call that brings one message."""

    def __init__(self) -> None:
        self._code: grpc.StatusCode | None = None
        self._trailing: tuple[Any, ...] = ()

    def invocation_metadata(self) -> tuple[Any, ...]:
        return ()

    def time_remaining(self) -> None:
        return None

    def set_trailing_metadata(self, trailing: tuple[Any, ...]) -> None:
        self._trailing = trailing

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self._trailing

    def code(self) -> grpc.StatusCode | None:
        return self._code

    async def read(self) -> bytes:
        return pb.ReadBlobRequest(collection="c", image_id="一").SerializeToString()

    async def write(self, _: Any) -> None:
        pass

    async def abort(self, code: grpc.StatusCode, *_: Any) -> None:
        self._code = code
        raise aio.AbortError


class Server:
    """An interceptor before handlers by method; what is not there has none."""

    def __init__(self, **behaviours: Any) -> None:
        self.registry = CollectorRegistry()
        self._interceptor = ServiceInterceptor(Reception(ServerSettings()), CallMetrics(self.registry))
        codec: Any = {"request_deserializer": pb.ReadBlobRequest.FromString, "response_serializer": bytes}
        self._handlers: dict[str, Any] = {
            f"/{SERVICE}/{name}": (
                grpc.unary_stream_rpc_method_handler(behaviour, **codec)
                if name == "ReadBlob"
                else grpc.unary_unary_rpc_method_handler(behaviour, **codec)
            )
            for name, behaviour in behaviours.items()
        }

    async def call(self, method: str) -> None:
        async def found(_: Any) -> Any:
            return self._handlers.get(method)

        details: Any = SimpleNamespace(method=method)
        handler = await self._interceptor.intercept_service(found, details)
        await (handler.stream_unary or handler.stream_stream)(None, Call())

    def value(
        self, name: str, grpc_type: str = "unary", service: str = SERVICE, method: str = "", **more: str
    ) -> float:
        labels = {"grpc_type": grpc_type, "grpc_service": service, "grpc_method": method, **more}
        return self.registry.get_sample_value(name, labels) or 0.0


async def test_calls_are_counted_timed_and_seen_while_they_run() -> None:
    go_on = asyncio.Event()

    async def wait(request: Any, context: Any) -> bytes:
        await go_on.wait()
        return b""

    async def stream(request: Any, context: Any) -> Any:
        yield b""

    server = Server(GetBlobs=wait, ReadBlob=stream)
    calls = [asyncio.create_task(server.call(f"/{SERVICE}/GetBlobs")) for _ in range(2)]
    await asyncio.sleep(0)
    assert server.value("grpc_server_in_flight", method="GetBlobs") == 2
    assert server.value("grpc_server_started_total", method="GetBlobs") == 2
    go_on.set()
    await asyncio.gather(*calls)
    assert server.value("grpc_server_in_flight", method="GetBlobs") == 0
    assert server.value("grpc_server_handled_total", method="GetBlobs", grpc_code="OK") == 2
    assert server.value("grpc_server_handling_seconds_count", method="GetBlobs") == 2
    await server.call(f"/{SERVICE}/ReadBlob")
    assert server.value("grpc_server_handled_total", "server_stream", method="ReadBlob", grpc_code="OK") == 1


async def test_a_failure_is_counted_by_status_and_by_reason() -> None:
    async def fail(request: Any, context: Any) -> None:
        raise ImageNotFound("c", "一")

    async def cancelled(request: Any, context: Any) -> None:
        raise asyncio.CancelledError

    server = Server(GetBlobs=fail, PutBlobs=cancelled)
    with pytest.raises(aio.AbortError):
        await server.call(f"/{SERVICE}/GetBlobs")
    assert server.value("grpc_server_handled_total", method="GetBlobs", grpc_code="NOT_FOUND") == 1
    assert server.value("wentu_errors_total", method="GetBlobs", reason="IMAGE_NOT_FOUND") == 1
    with pytest.raises(asyncio.CancelledError):
        await server.call(f"/{SERVICE}/PutBlobs")
    assert server.value("grpc_server_handled_total", method="PutBlobs", grpc_code="CANCELLED") == 1
    assert server.value("grpc_server_in_flight", method="PutBlobs") == 0


async def test_a_caller_cannot_make_labels() -> None:
    server = Server()
    for number in range(100):
        with pytest.raises(aio.AbortError):
            await server.call(f"/{SERVICE}/Method{number}")
    unknown = {"service": "unknown", "method": "unknown"}
    assert server.value("grpc_server_handled_total", grpc_code="UNIMPLEMENTED", **unknown) == 100
    assert server.value("wentu_errors_total", reason="UNSUPPORTED", **unknown) == 100
    [handled] = [family for family in server.registry.collect() if family.name == "grpc_server_handled"]
    assert {sample.labels["grpc_method"] for sample in handled.samples} == {"unknown"}
