"""The interceptor of every server. It logs and measures calls, turns errors into statuses, and receives messages.

Handlers of all four shapes become coroutines that read and write messages themselves (reception.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import structlog
from grpc import aio

from services.common.call_metrics import UNKNOWN, CallMetrics, MethodLabels, MethodMetrics
from services.common.calls import REQUEST_ID_KEY, incoming
from services.common.errors import Code, InternalError, NotImplementedYet, WentuError
from services.common.reception import Context, Reception, Serve
from services.common.wire_errors import grpc_status, trailing_metadata

__all__ = ["Context", "ServiceInterceptor"]

log = structlog.get_logger()

# Health checks and reflection are frequent and tell little. They are not logged, not measured, and never refused.
_APART = ("/grpc.health.", "/grpc.reflection.")
# The logged length of an unknown method's name.
MAX_METHOD_CHARS = 200
# A caller that does not read its answer does not read a status either.
ABORT_SECONDS = 5.0


class ServiceInterceptor(aio.ServerInterceptor):
    """Wraps every call of the project's own services, and answers calls of unknown methods."""

    def __init__(self, reception: Reception, metrics: CallMetrics) -> None:
        self._reception = reception
        self._metrics = metrics
        self._unknown = MethodMetrics(metrics, UNKNOWN)
        # Handlers by method, made only once, since gRPC asks at every call.
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        if wrapped := self._wrapped.get(method):
            return wrapped
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return grpc.stream_unary_rpc_method_handler(_recorded(method[:MAX_METHOD_CHARS], no_method, self._unknown))
        if method.startswith(_APART):
            call = _answered(method, self._reception.serve(handler, method, counted=False))
        else:
            metrics = MethodMetrics(self._metrics, MethodLabels.of(method, handler))
            call = _recorded(method, self._reception.serve(handler, method), metrics)
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        serializer = partial(unless_serialized, handler.response_serializer)
        wrapped = self._wrapped[method] = make(call, response_serializer=serializer)
        return wrapped


def unless_serialized(serialize: Callable[[Any], bytes], answer: Any) -> bytes:
    """Serialize an answer unless the reception has done it. Only answers that a handler writes itself are left."""
    return answer if isinstance(answer, bytes) else serialize(answer)


async def no_method(context: Context) -> None:
    """Answer a call of an unknown method."""
    raise NotImplementedError


def _recorded(method: str, serve: Serve, metrics: MethodMetrics) -> Any:
    async def call(_: Any, context: Context) -> Any:
        async with recorded(method, context, metrics):
            return await told(serve, method, context, metrics)

    return call


def _answered(method: str, serve: Serve) -> Any:
    async def call(_: Any, context: Context) -> Any:
        return await told(serve, method, context)

    return call


@asynccontextmanager
async def recorded(method: str, context: Context, metrics: MethodMetrics) -> AsyncIterator[None]:
    """Adopt the request id and the deadline of a call, return the id, and log and count how the call ended."""
    given = next((value for key, value in context.invocation_metadata() or () if key == REQUEST_ID_KEY), "")
    started = time.perf_counter()
    metrics.started()
    with incoming(str(given), context.time_remaining()) as call_id:
        context.set_trailing_metadata(((REQUEST_ID_KEY, call_id),))
        cancelled = False
        try:
            yield
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            code = Code.CANCELLED.name if cancelled else _code_name(context)
            seconds = time.perf_counter() - started
            metrics.ended(code, seconds)
            # It runs after the answer was sent, in a copy of this context, so that the line has the request id.
            record = partial(log.info, "call", method=method, code=code, milliseconds=round(seconds * 1000, 2))
            asyncio.get_running_loop().call_soon(record)


def _code_name(context: Context) -> str:
    code: Any = context.code()
    if not code:
        return "OK"
    return str(code.name) if isinstance(code, grpc.StatusCode) else grpc_status(Code(code)).name


async def told(serve: Serve, method: str, context: Context, metrics: MethodMetrics | None = None) -> Any:
    """Serve a call, and turn this project's errors into statuses with details. Others become INTERNAL without text."""
    try:
        return await serve(context)
    except (aio.AbortError, asyncio.CancelledError, GeneratorExit):
        raise
    except WentuError as caught:
        error = caught
    except NotImplementedError:
        error = NotImplementedYet(method)
    except Exception:
        log.exception("unexpected error", method=method)
        error = InternalError()
    if metrics is not None:
        metrics.failed(error.reason)
    # gRPC keeps the error and the call in a reference cycle. The error's frames hold the request and the answers of
    # other services, so they are released here and not at the next garbage collection.
    error.__traceback__ = error.__cause__ = error.__context__ = None
    await _abort(context, error)
    return None


async def _abort(context: Context, error: WentuError) -> None:
    kept = tuple(context.trailing_metadata() or ())
    try:
        async with asyncio.timeout(ABORT_SECONDS):
            await context.abort(grpc_status(error.code), error.message, (*kept, *trailing_metadata(error)))
    except TimeoutError:
        raise asyncio.CancelledError from error
