"""Receives calls: waits for their messages, measures and parses them, and limits the number of calls.

gRPC itself would parse messages before our code runs, count calls that have sent no message, and wait without a limit.
So every method is served as a stream of unparsed messages. A unary call is a stream of one message.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, nullcontext
from typing import Any

from grpc import aio

from services.common.budget import ByteBudget, Share
from services.common.errors import Overloaded, UnreadableRequest
from services.common.limits import MIB
from services.common.message_cost import FIELD_BYTES, Shape, cost, shape_of
from services.common.settings import ServerSettings
from services.common.waiting import Patience, Wait

Context = aio.ServicerContext[Any, Any]
# Answers a call. It reads messages from the context, and writes a streaming answer to it.
Serve = Callable[[Context], Awaitable[Any]]
# Messages up to this size are not inspected: all of their bytes count as small fields.
SMALL_BYTES = 4096
# Bytes of memory per byte of small fields, measured for the worst message.
FIELDS_IN_MEMORY = 20
SENT_NOTHING, TOOK_NOTHING = "sent nothing", "took no answer"


class Slots:
    """Counts the calls of one service that are served now."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def __enter__(self) -> None:
        """Raises Overloaded."""
        if self._taken >= self._limit:
            raise Overloaded(f"{self._taken:,} calls are served now; there is no room for more")
        self._taken += 1

    def __exit__(self, *error: object) -> None:
        self._taken -= 1


class Reception:
    """Receives the calls of all services of one process."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        limit = settings.max_received_bytes
        self.budget = ByteBudget(limit, "requests", max_waiting_bytes=limit)
        self.patience = Patience(settings.idle_stream_seconds)
        # Each service has its own slots, so that a full service does not block another one.
        self._slots: defaultdict[str, Slots] = defaultdict(lambda: Slots(settings.max_concurrent_calls))

    def serve(self, handler: Any, method: str, counted: bool = True) -> Serve:
        """A function that serves `method` by a handler of any shape. If not `counted`, its calls are never refused."""
        behaviour = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream
        reader = Reader(handler.request_deserializer, self._settings)
        slots = self._slots[method.rpartition("/")[0]] if counted else nullcontext()
        budget = self.budget

        async def unary(context: Context) -> Any:
            """A call takes a slot only after it has sent its message."""
            raw = await self.patience.wait(Wait(), context.read(), SENT_NOTHING)
            if raw is aio.EOF:
                raise UnreadableRequest("is missing")
            with slots, budget.share() as share:
                share.grow(await reader.measure(raw))
                request = reader.parse(raw)
                del raw  # as large as the message
                answer = behaviour(request, context)
                # gRPC's health service writes its answers itself.
                if not handler.response_streaming or inspect.iscoroutine(answer):
                    return await answer
                return await Stream(self, reader, context).write_all(answer)

        async def streaming(context: Context) -> Any:
            stream = Stream(self, reader, context, answered=handler.response_streaming)
            raw = await stream.receive()
            with slots:
                try:
                    answer = behaviour(stream.messages(raw), context)
                    return await (stream.write_all(answer) if handler.response_streaming else answer)
                finally:
                    stream.give_all_back()

        return streaming if handler.request_streaming else unary


class Reader:
    """Parses the messages of one method."""

    def __init__(self, parse: Any, settings: ServerSettings) -> None:
        self._parse: Callable[[bytes], Any] = parse
        self._max_bytes = settings.max_request_bytes
        self._max_fields_bytes = settings.max_fields_bytes
        descriptor = parse.__self__.DESCRIPTOR  # the message's class, whose FromString it is
        self._name: str = descriptor.full_name
        self._shape: Shape = shape_of(descriptor)

    async def measure(self, raw: bytes) -> int:
        """The memory that parsing may need, in bytes. Raises UnreadableRequest."""
        size_bytes = len(raw)
        if size_bytes <= SMALL_BYTES:
            return size_bytes * FIELDS_IN_MEMORY
        return size_bytes + FIELDS_IN_MEMORY * await self._fields_bytes(raw)

    def parse(self, raw: bytes) -> Any:
        """Raises UnreadableRequest."""
        try:
            return self._parse(raw)
        except Exception as error:
            raise UnreadableRequest(f"cannot be parsed as {self._name}") from error

    async def _fields_bytes(self, raw: bytes) -> int:
        if len(raw) > self._max_bytes:
            raise UnreadableRequest(f"has {len(raw):,} bytes; the limit is {self._max_bytes:,}")
        limit, shape = self._max_fields_bytes, self._shape
        fields_bytes = await asyncio.to_thread(cost, shape, raw, limit) if len(raw) > MIB else cost(shape, raw, limit)
        if fields_bytes > limit:
            raise UnreadableRequest(
                f"has more than {limit:,} bytes besides image bytes, lists of texts and vectors, "
                f"a field counted as {FIELD_BYTES} at least"
            )
        return fields_bytes


class Stream:
    """The messages of one call, in both directions."""

    def __init__(self, reception: Reception, reader: Reader, context: Context, *, answered: bool = False) -> None:
        """`answered`: each message except the first gets one answer, as in AddImages."""
        self._budget = reception.budget
        self._patience = reception.patience
        self._reader = reader
        self._context = context
        self._answered = answered
        self._reading: Wait | None = None
        # Memory of the messages that are being processed: until they are answered, or, without answers, until the
        # next message is read.
        self._in_hand: deque[Share] = deque()

    async def receive(self) -> Any:
        """The next unparsed message, or aio.EOF after the last one. Raises IdleCall."""
        self._reading = Wait()
        self._reading.forgiven = self._owes()
        try:
            return await self._patience.wait(self._reading, self._context.read(), SENT_NOTHING)
        finally:
            self._reading = None

    async def messages(self, raw: Any) -> AsyncIterator[Any]:
        """The parsed messages of a stream that begins with `raw`. Each waits until the budget has space for it."""
        while raw is not aio.EOF:
            share = self._budget.share()
            await share.wait(await self._reader.measure(raw), seconds=None)
            self._in_hand.append(share)
            message = self._reader.parse(raw)
            del raw
            yield message
            del message
            if not self._answered:
                self.give_all_back()
            raw = await self.receive()

    async def write_all(self, answers: Any) -> None:
        """Raises IdleCall."""
        async with aclosing(answers):
            async for answer in answers:
                try:
                    await self._patience.wait(Wait(), self._context.write(answer), TOOK_NOTHING)
                except aio.InternalError as error:  # the caller is gone
                    raise asyncio.CancelledError from error
                self._answer_one()

    def give_all_back(self) -> None:
        while self._in_hand:
            self._in_hand.popleft().release()

    def _answer_one(self) -> None:
        if self._in_hand:
            self._in_hand.popleft().release()
        if self._reading is not None:
            self._reading.since = time.monotonic()
            self._reading.forgiven = self._owes()

    def _owes(self) -> bool:
        """Whether the caller may wait for an answer."""
        return self._answered and len(self._in_hand) > 1
