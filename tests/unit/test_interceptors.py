"""How a call ends: its errors as statuses with details, its request id, its deadline, and the line in the log."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from protos import encoder_pb2
from services.common import interceptors
from services.common.call_metrics import CallMetrics, MethodLabels, MethodMetrics
from services.common.calls import MAX_REQUEST_ID_CHARS, outgoing, request_id, seconds_left
from services.common.errors import CollectionNotFound, InternalError, NotImplementedYet, Overloaded, WentuError
from services.common.interceptors import ServiceInterceptor, recorded, told
from services.common.reception import Reception
from services.common.settings import ServerSettings
from services.common.wire_errors import from_rpc_error
from tests.unit.calls_in_memory import FakeContext

METHOD = "/wentu.v1.EncoderService/EncodeTexts"
CALLS = CallMetrics(CollectorRegistry())
METRICS = MethodMetrics(CALLS, MethodLabels("unary", "wentu.v1.EncoderService", "EncodeTexts"))
Serve = Callable[[Any], Awaitable[Any]]


def raising(error: BaseException) -> Serve:
    async def serve(context: Any) -> None:
        raise error

    return serve


def received(context: FakeContext) -> WentuError:
    """What the caller makes of the status."""
    assert context.status is not None
    error = aio.AioRpcError(context.status, aio.Metadata(), aio.Metadata(*context.trailing), context.details)
    return from_rpc_error(error, "encoder")


async def ended(serve: Serve, context: FakeContext) -> list[dict[str, Any]]:
    """Serves a call to its end; the lines of the log."""
    with capture_logs() as logs:
        try:
            async with recorded(METHOD, context, METRICS):  # type: ignore[arg-type]
                await told(serve, METHOD, context, METRICS)  # type: ignore[arg-type]
        except (aio.AbortError, asyncio.CancelledError):
            pass
        await asyncio.sleep(0)
    return [dict(each) for each in logs]


@pytest.mark.parametrize("raised", [CollectionNotFound("c"), Overloaded("full", 0.25), InternalError()])
async def test_an_error_becomes_a_status_with_details_beside_the_request_id(raised: WentuError) -> None:
    context = FakeContext(metadata=[("x-request-id", "mine")])
    [line] = await ended(raising(raised), context)
    got = received(context)
    assert (type(got), got.message, got.metadata) == (type(raised), raised.message, raised.metadata)
    assert got.retry_after_seconds == raised.retry_after_seconds
    assert dict(context.trailing)["x-request-id"] == "mine"
    assert (line["event"], line["method"], line["code"]) == ("call", METHOD, raised.code.name)


async def test_a_defect_says_nothing_of_the_inside_and_is_logged() -> None:
    context = FakeContext()
    logs = await ended(raising(KeyError("a password")), context)
    assert (type(received(context)), context.details) == (InternalError, InternalError().message)
    assert "password" not in context.details + str(context.trailing)
    assert [each["event"] for each in logs] == ["unexpected error", "call"]
    assert logs[0]["exc_info"]


async def test_what_is_not_implemented_says_which_method() -> None:
    context = FakeContext()
    await ended(raising(NotImplementedError()), context)
    got = received(context)
    assert (type(got), got.metadata) == (NotImplementedYet, {"feature": METHOD})


async def test_an_error_lets_go_of_what_its_frames_hold() -> None:
    """gRPC keeps the error with the call until the collector comes: see told()."""
    error = CollectionNotFound("c")
    try:
        raise error from ValueError("with frames")
    except CollectionNotFound:
        pass
    await ended(raising(error), FakeContext())
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("ending", [asyncio.CancelledError(), aio.AbortError()])
async def test_a_call_that_ended_is_not_ended_again(ending: BaseException) -> None:
    context = FakeContext()
    [line] = await ended(raising(ending), context)
    assert context.status is None
    assert line["code"] == ("CANCELLED" if isinstance(ending, asyncio.CancelledError) else "OK")


async def test_a_caller_that_takes_no_status_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(FakeContext):
        async def abort(self, *args: Any) -> None:
            await asyncio.sleep(60)

    monkeypatch.setattr(interceptors, "ABORT_SECONDS", 0.01)
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await told(raising(CollectionNotFound("c")), METHOD, Deaf())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a" * MAX_REQUEST_ID_CHARS, True),
        ("a" * (MAX_REQUEST_ID_CHARS + 1), False),
        ("", False),
        ("a\nb", False),
        ("图", False),
        ("a b", True),
    ],
)
async def test_a_usable_request_id_is_kept_and_another_replaced(given: str, kept: bool) -> None:
    seen: list[str] = []

    async def serve(context: Any) -> None:
        seen.append(request_id())
        assert dict(outgoing(1)["metadata"])["x-request-id"] == request_id(), "it travels on"

    context = FakeContext(metadata=[("other", "x"), ("x-request-id", given)])
    await ended(serve, context)
    [found] = seen
    assert dict(context.trailing)["x-request-id"] == found
    assert (found == given) == kept
    assert len(found) == (len(given) if kept else 32)
    assert request_id() == "", "it ends with the call"


@pytest.mark.parametrize(
    ("left", "limit", "timeout"), [(None, 7.0, 7.0), (100.0, 7.0, 7.0), (3.0, 7.0, 2.99), (0.001, 7.0, 0.0)]
)
async def test_a_call_to_another_service_gets_what_is_left_less_a_margin(
    left: float | None, limit: float, timeout: float
) -> None:
    found: list[float | None] = []

    async def serve(context: Any) -> None:
        found.append(outgoing(limit)["timeout"])
        assert (seconds_left() is None) == (left is None)

    await ended(serve, FakeContext(seconds=left))
    assert found == [pytest.approx(timeout, abs=0.5 if timeout == 2.99 else 1e-9)]
    assert found[0] is not None
    assert found[0] <= timeout
    assert seconds_left() is None


async def test_a_deadline_that_passed_leaves_no_negative_timeout() -> None:
    async def serve(context: Any) -> None:
        await asyncio.sleep(0.002)
        assert (seconds_left() or math.inf) < 0
        assert outgoing(1)["timeout"] == 0

    context = FakeContext(seconds=0.001)
    await ended(serve, context)
    assert context.status is None


def details_of(method: str) -> Any:
    return SimpleNamespace(method=method)


def handler(behaviour: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=encoder_pb2.EncodeTextsRequest.FromString,
        response_serializer=encoder_pb2.EncodeTextsResponse.SerializeToString,
    )


async def test_a_handler_is_wrapped_once_per_method() -> None:
    interceptor = ServiceInterceptor(Reception(ServerSettings()), CALLS)
    asked = 0

    async def behaviour(request: Any, context: Any) -> Any:
        return encoder_pb2.EncodeTextsResponse(precision=request.texts[0])

    async def continuation(details: Any) -> Any:
        nonlocal asked
        asked += 1
        return handler(behaviour)

    wrapped = [await interceptor.intercept_service(continuation, details_of(METHOD)) for _ in range(3)]
    assert asked == 1
    assert wrapped[0] is wrapped[2]
    context = FakeContext([encoder_pb2.EncodeTextsRequest(texts=["图"]).SerializeToString()])
    answer = await wrapped[0].stream_unary(None, context)
    assert encoder_pb2.EncodeTextsResponse.FromString(answer).precision == "图"


async def test_a_method_that_there_is_not_is_told_and_never_kept() -> None:
    """A caller that invents names must not fill the memory, nor a line of the log."""
    interceptor = ServiceInterceptor(Reception(ServerSettings()), CALLS)

    async def continuation(details: Any) -> None:
        return None

    name = "/x/" + "y" * 5000
    made = await interceptor.intercept_service(continuation, details_of(name))
    context = FakeContext()
    with capture_logs() as logs, pytest.raises(aio.AbortError):
        await made.stream_unary(None, context)
    await asyncio.sleep(0)
    assert context.status is grpc.StatusCode.UNIMPLEMENTED
    assert len(context.details) < 300
    assert all(len(str(each)) < 600 for each in logs)
    assert not interceptor._wrapped


async def test_health_checks_are_not_logged_and_never_refused() -> None:
    interceptor = ServiceInterceptor(Reception(ServerSettings(max_concurrent_calls=1)), CALLS)
    going = asyncio.Event()

    async def behaviour(request: Any, context: Any) -> encoder_pb2.EncodeTextsResponse:
        await going.wait()
        return encoder_pb2.EncodeTextsResponse(precision="serving")

    async def continuation(details: Any) -> Any:
        return handler(behaviour)

    wrapped = await interceptor.intercept_service(continuation, details_of("/grpc.health.v1.Health/Check"))
    with capture_logs() as logs:
        calls = [asyncio.create_task(wrapped.stream_unary(None, FakeContext([b""]))) for _ in range(3)]
        await asyncio.sleep(0)
        going.set()
        answers = [encoder_pb2.EncodeTextsResponse.FromString(each) for each in await asyncio.gather(*calls)]
        assert [answer.precision for answer in answers] == ["serving"] * 3
        await asyncio.sleep(0)
    assert logs == []
