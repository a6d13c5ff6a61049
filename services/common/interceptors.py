"""The interceptors of every server, in their order: CallInterceptor, then ErrorInterceptor.

Both wrap the four shapes of handlers in the same way: by an async context manager around the call.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import grpc
import structlog
from grpc import aio

from services.common.calls import REQUEST_ID_KEY, incoming
from services.common.errors import Code, InternalError, WentuError
from services.common.wire_errors import grpc_status, trailing_metadata

log = structlog.get_logger()

Context = aio.ServicerContext[Any, Any]
# Health checks and reflection come often, say little, and answer by writing to the context.
_LEFT_ALONE = ("/grpc.health.", "/grpc.reflection.")


class AroundInterceptor(aio.ServerInterceptor):
    """Runs `around` about every call of the project's own services."""

    def __init__(self) -> None:
        # Made once a method: gRPC asks at every call.
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    @abstractmethod
    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]: ...

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_LEFT_ALONE):
            return handler
        inner, wrapped = self._wrapped.get(method, (None, None))
        if inner is not handler:
            wrapped = self._wrap(handler, method)
            self._wrapped[method] = (handler, wrapped)
        return wrapped

    def _wrap(self, handler: Any, method: str) -> Any:
        behaviour = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream

        async def one(request: Any, context: Context) -> Any:
            async with self.around(method, context):
                return await behaviour(request, context)

        async def many(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self.around(method, context):
                async for response in behaviour(request, context):
                    yield response

        if handler.response_streaming:
            make: Any = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            wrapped: Any = many
        else:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            wrapped = one
        return make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class CallInterceptor(AroundInterceptor):
    """Takes on the request id and the deadline of a call, sends the id back, and logs how the call ended."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        given = next((value for key, value in context.invocation_metadata() or () if key == REQUEST_ID_KEY), "")
        started = time.perf_counter()
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
                milliseconds = round((time.perf_counter() - started) * 1000, 2)
                # Once the answer is on its way; with the request id, since it runs in a copy of this context.
                record = partial(log.info, "call", method=method, code=code, milliseconds=milliseconds)
                asyncio.get_running_loop().call_soon(record)


def _code_name(context: Context) -> str:
    code: Any = context.code()
    if not code:
        return "OK"
    return str(code.name) if isinstance(code, grpc.StatusCode) else grpc_status(Code(code)).name


class ErrorInterceptor(AroundInterceptor):
    """Turns errors into statuses with details. Others become INTERNAL, without their text."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        try:
            yield
        except (aio.AbortError, asyncio.CancelledError, GeneratorExit):
            raise
        except WentuError as error:
            await _abort(context, error)
        except NotImplementedError:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented yet")
        except Exception:
            log.exception("unexpected error", method=method)
            await _abort(context, InternalError())


async def _abort(context: Context, error: WentuError) -> None:
    kept = tuple(context.trailing_metadata() or ())
    await context.abort(grpc_status(error.code), error.message, (*kept, *trailing_metadata(error)))
