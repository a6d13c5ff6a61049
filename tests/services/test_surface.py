"""How every service treats hostile, idle and mistaken callers. The image store on SQLite stands for all."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from pydantic import SecretStr

from protos import imagestore_pb2 as pb
from protos import imagestore_pb2_grpc
from services.common.channels import open_channel
from services.common.errors import UnreadableAnswer
from services.common.limits import MIB
from services.imagestore.__main__ import running
from services.imagestore.settings import ImageStoreSettings
from tests.support.system import Refusal, refusal

SERVICE = "/wentu.v1.ImageStoreService/"
# Channels of one process share connections, unless an option differs.
SERVING = health_pb2.HealthCheckResponse.SERVING
ALONE = [("grpc.use_local_subchannel_pool", 1)]
TOOLS = Path(sys.executable).parent


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[int]:
    database = SecretStr(str(folder / "images.db"))
    async with running(ImageStoreSettings(port=0, database=database, **settings)) as port:
        yield port


def channel(port: int) -> Any:
    return aio.insecure_channel(f"127.0.0.1:{port}", options=[*ALONE, ("grpc.max_send_message_length", -1)])


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def refused_in_time(call: Callable[[], Any]) -> Refusal:
    """Ask until the service refuses. It takes a moment until all messages have arrived."""
    while True:
        try:
            async with asyncio.timeout(3):
                await call()
        except aio.AioRpcError as error:
            return refusal(error)
        await asyncio.sleep(0.05)


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    async with serving(tmp_path) as port:
        yield port


async def test_what_cannot_be_parsed_is_the_callers_mistake(port: int) -> None:
    async with channel(port) as caller:
        junk = b"\x0a\xff\xff\xff\xff\x0f"
        for method in ("CountBlobs", "ReadBlob", "WriteBlob"):
            call = caller.stream_stream(SERVICE + method)(iter([junk]), metadata=(("x-request-id", "order-66"),))
            got = await refused(call.read())
            assert (got.code, got.reason, got.fields) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ())
            assert "cannot be parsed as wentu.v1." in got.message
            assert dict(await call.trailing_metadata())["x-request-id"] == "order-66"
        health = await refused(caller.unary_unary("/grpc.health.v1.Health/Check")(junk))
        assert (health.code, health.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_methods_that_there_are_not(port: int) -> None:
    async with channel(port) as caller:
        for method in (SERVICE + "Nothing", "/wentu.v1.SearchService/Search", "/a/b", "/grpc.health.v1.Health/Nothing"):
            got = await refused(caller.unary_unary(method)(b""))
            assert (got.code, got.reason) == (StatusCode.UNIMPLEMENTED, "UNSUPPORTED")
            assert got.metadata == {"feature": method}


async def test_a_message_of_many_small_fields_is_refused_before_it_is_parsed(port: int) -> None:
    many = bytes([2 << 3 | 2, 0])  # empty ids
    async with channel(port) as caller:
        started = time.process_time()
        got = await refused(caller.unary_unary(SERVICE + "DeleteBlobs")(many * 30_000_000))
        assert (got.code, got.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert "8,388,608" in got.message
        assert time.process_time() - started < 2, "parsing it would take longer, and a GiB"
        got = await refused(caller.unary_unary(SERVICE + "DeleteBlobs")(b"\x0a\x01c" + many * 2000))
        assert got.fields == ("image_ids",)
        got = await refused(caller.unary_unary(SERVICE + "PutBlobs")(bytes(64 * MIB + 1)))
        assert (got.code, got.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert "67,108,864" in got.message


async def test_bytes_in_hand_have_a_limit(tmp_path: Path) -> None:
    """If too many large messages arrive at once, some are refused with a retry delay, and the others are served."""
    data = bytes(12 * MIB)
    request = pb.PutBlobsRequest(collection="c", blobs=[pb.BlobUpload(image_id="a", data=data)]).SerializeToString()
    async with serving(tmp_path, max_received_bytes=64 * MIB) as port, channel(port) as caller:
        put = caller.unary_unary(SERVICE + "PutBlobs")
        ended = await asyncio.gather(*(put(request) for _ in range(12)), return_exceptions=True)
        errors = [refusal(each) for each in ended if isinstance(each, aio.AioRpcError)]
        assert 0 < len(errors) < 12
        assert {(each.code, each.reason, each.retry) for each in errors} == {
            (StatusCode.UNAVAILABLE, "OVERLOADED", True)
        }
        await put(request)  # the whole budget is free again


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_a_request_that_was_refused_is_let_go_at_once(port: int) -> None:
    """Memory is freed at once, not at the next garbage collection, although gRPC keeps a reference cycle."""
    request = pb.PutBlobsRequest(collection="No", blobs=[pb.BlobUpload(image_id="a", data=bytes(40 * MIB))])
    raw = request.SerializeToString()
    async with channel(port) as caller:
        put = caller.unary_unary(SERVICE + "PutBlobs")
        gc.disable()
        try:
            await refused(put(raw))
            before = resident_bytes()
            for _ in range(10):
                await refused(put(raw))
            assert resident_bytes() - before < 400 * MIB  # about 930 MiB if they are not freed
        finally:
            gc.enable()


async def stalled(caller: Any, count: int) -> tuple[list[Any], list[Any]]:
    """Streams that begin and then send nothing, and unary calls that never send their message."""
    head = pb.WriteBlobRequest(head=pb.WriteBlobHead(collection="c", blob=pb.BlobUpload(image_id="a")))
    streams = [caller.stream_unary(SERVICE + "WriteBlob")() for _ in range(count)]
    for stream in streams:
        await stream.write(head.SerializeToString())
    silent = [caller.stream_unary(SERVICE + "CountBlobs")() for _ in range(200)]
    await asyncio.sleep(0.5)
    return streams, silent


async def test_callers_that_stall_lock_nobody_out(tmp_path: Path) -> None:
    """1,200 idle streams and 200 idle calls on one connection end. Another caller is answered within a second."""
    async with serving(tmp_path, idle_stream_seconds=4, max_concurrent_calls=500, max_connection_calls=2000) as port:
        hostile, other = channel(port), channel(port)
        async with hostile, other:
            streams, silent = await stalled(hostile, 1200)
            started = time.monotonic()
            health: Any = health_pb2_grpc.HealthStub(other)
            assert (
                await health.Check(health_pb2.HealthCheckRequest())
            ).status == health_pb2.HealthCheckResponse.SERVING
            assert time.monotonic() - started < 1
            stub: Any = imagestore_pb2_grpc.ImageStoreServiceStub(other)
            got = await refused_in_time(lambda: stub.GetBlobStore(pb.GetBlobStoreRequest()))
            assert (got.code, got.reason, got.retry) == (StatusCode.UNAVAILABLE, "OVERLOADED", True)
            ends = [await refused(call) for call in (*streams, *silent)]
            reasons = {(each.code, each.reason, each.metadata.get("idle_seconds")) for each in ends}
            assert reasons == {(StatusCode.UNAVAILABLE, "OVERLOADED", None), (StatusCode.ABORTED, "IDLE", "4")}
            assert (await stub.GetBlobStore(pb.GetBlobStoreRequest())).kind == "sqlite"


async def test_one_connection_takes_its_share(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connection_calls=50) as port, channel(port) as hostile, channel(port) as other:
        streams = [hostile.stream_unary(SERVICE + "WriteBlob")() for _ in range(100)]
        await asyncio.sleep(0.3)
        stub: Any = imagestore_pb2_grpc.ImageStoreServiceStub(other)
        assert (await stub.GetBlobStore(pb.GetBlobStoreRequest(), timeout=1)).kind == "sqlite"
        for stream in streams:
            stream.cancel()


async def test_a_caller_that_takes_no_answer_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, idle_stream_seconds=0.5, max_concurrent_calls=1) as port, channel(port) as caller:
        stub: Any = imagestore_pb2_grpc.ImageStoreServiceStub(caller)
        blob = pb.BlobUpload(image_id="a", data=bytes(16 * MIB))
        await stub.PutBlobs(pb.PutBlobsRequest(collection="c", blobs=[blob]))
        reading = stub.ReadBlob(pb.ReadBlobRequest(collection="c", image_id="a"))
        assert (await reading.read()).info.size_bytes == 16 * MIB
        assert (await refused(stub.GetBlobStore(pb.GetBlobStoreRequest()))).reason == "OVERLOADED"
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            try:
                await stub.GetBlobStore(pb.GetBlobStoreRequest())
                break
            except aio.AioRpcError:
                continue
        else:
            pytest.fail("its place was not given free")


async def test_an_answer_that_cannot_be_parsed_has_a_cause(port: int) -> None:
    """A stub gets an answer that it cannot parse. Here the stub expects another message type."""
    upstream = open_channel(f"127.0.0.1:{port}")
    answer = await upstream.unary_unary(
        SERVICE + "GetBlobStore",
        request_serializer=pb.GetBlobStoreRequest.SerializeToString,
        response_deserializer=pb.WriteBlobRequest.FromString,  # the field is a text here and a message in the stub
    )(pb.GetBlobStoreRequest())
    with pytest.raises(UnreadableAnswer, match=f"127.0.0.1:{port} answered {SERVICE}GetBlobStore with what cannot"):
        _ = answer.head
    await upstream.close()


@pytest.mark.parametrize(
    "symbol",
    [
        "wentu.v1.ImageStoreService",
        "wentu.v1.ImageStoreService.PutBlobs",
        "wentu.v1.BlobUpload.image_id",
        "wentu.v1.RENDITION_THUMBNAIL",
        "wentu.v1.Rendition.RENDITION_THUMBNAIL",
        "google.protobuf.Struct.FieldsEntry",
        "grpc.health.v1.Health.Check",
    ],
)
async def test_reflection_finds_every_symbol_by_both_of_its_names(port: int, symbol: str) -> None:
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    unknown = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol + "x")
    async with channel(port) as caller:
        for version in ("v1", "v1alpha"):
            call = caller.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )(iter([unknown, question]))
            missing, found = [each async for each in call]
            assert missing.error_response.error_code == StatusCode.NOT_FOUND.value[0]
            files = found.file_descriptor_response.file_descriptor_proto
            named = [descriptor_pb2.FileDescriptorProto.FromString(each).name for each in files]
            assert len(set(named)) == len(named)


async def test_real_clients_of_reflection(port: int) -> None:
    async def output(*command: str) -> str:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    address = f"127.0.0.1:{port}"
    grpcurl = (str(TOOLS / "grpcurl"), "-plaintext", address)
    assert "grpc.reflection.v1.ServerReflection" in await output(*grpcurl, "list")
    for method in pb.DESCRIPTOR.services_by_name["ImageStoreService"].methods[::4]:
        assert f"rpc {method.name} (" in await output(*grpcurl, "describe", method.full_name)
    buf = (
        str(TOOLS / "buf"),
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        "--list-methods",
        f"http://{address}",
    )
    for protocol in ("grpc-v1", "grpc-v1alpha"):
        assert "wentu.v1.ImageStoreService/PutBlobs" in await output(*buf, "--reflect-protocol", protocol)
