"""What travels with a call from service to service: the request id and the deadline."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TypedDict

import structlog
from grpc import aio

from services.common.wire_errors import from_rpc_error

REQUEST_ID_KEY = "x-request-id"
MAX_REQUEST_ID_CHARS = 128
# Kept back of a caller's deadline, so that this service can still say what happened.
MARGIN_SECONDS = 0.01

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class CallOptions(TypedDict):
    """Keyword arguments of a stub's method."""

    timeout: float | None
    metadata: tuple[tuple[str, str], ...]


def request_id() -> str:
    return _request_id.get()


@contextmanager
def incoming(given_id: str, seconds_left: float | None) -> Iterator[str]:
    """Takes on the id and the deadline of an incoming call; an id that is missing or odd is replaced."""
    usable = 0 < len(given_id) <= MAX_REQUEST_ID_CHARS and given_id.isprintable() and given_id.isascii()
    call_id = given_id if usable else uuid.uuid4().hex
    id_token = _request_id.set(call_id)
    deadline_token = _deadline.set(None if seconds_left is None else time.monotonic() + seconds_left)
    try:
        with structlog.contextvars.bound_contextvars(request_id=call_id):
            yield call_id
    finally:
        _request_id.reset(id_token)
        _deadline.reset(deadline_token)


def seconds_left() -> float | None:
    """What is left of the caller's deadline; None where there is none. Negative once it has passed."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()


def outgoing(limit_seconds: float) -> CallOptions:
    """Options for a call to another service: the caller's deadline less a margin, at most `limit_seconds`."""
    left = seconds_left()
    timeout = limit_seconds if left is None else min(limit_seconds, max(0.0, left - MARGIN_SECONDS))
    return {"timeout": timeout, "metadata": ((REQUEST_ID_KEY, request_id() or uuid.uuid4().hex),)}


@asynccontextmanager
async def calling(upstream: str) -> AsyncIterator[None]:
    """Turns a failed call to `upstream` into one of this project's errors."""
    try:
        yield
    except aio.AioRpcError as error:
        raise from_rpc_error(error, upstream) from error
