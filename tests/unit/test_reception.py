"""How messages come in: measured before they are parsed, within the budget, and every place is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio

from protos import encoder_pb2
from services.common.errors import IdleCall, InvalidField, Overloaded, UnreadableRequest
from services.common.limits import MIB
from services.common.reception import FIELDS_IN_MEMORY, SMALL_BYTES, Reception, Serve, Slots
from services.common.settings import ServerSettings
from tests.unit.calls_in_memory import FakeContext

METHOD = "/wentu.v1.EncoderService/Any"
Request = encoder_pb2.EncodeImagesRequest


def as_text(answer: Any) -> Any:
    """In place of a serializer, so that the tests can compare answers."""
    return str(answer)


def raw(size_bytes: int) -> bytes:
    return Request(images=[b"x" * size_bytes]).SerializeToString()


def unary(reception: Reception, behaviour: Any) -> Serve:
    return reception.serve(grpc.unary_unary_rpc_method_handler(behaviour, Request.FromString, as_text), METHOD)


def stream(reception: Reception, behaviour: Any, method: str = METHOD) -> Serve:
    return reception.serve(grpc.stream_stream_rpc_method_handler(behaviour, Request.FromString, as_text), method)


def used(reception: Reception) -> tuple[int, int]:
    """Bytes of the budget and places that are taken."""
    return reception.budget.used_bytes, sum(slots._taken for slots in reception._slots.values())


async def served(serve: Serve, context: FakeContext) -> Any:
    return await serve(context)  # type: ignore[arg-type]


def test_places_are_counted_and_given_back() -> None:
    slots = Slots(2)
    with slots:
        with pytest.raises(RuntimeError), slots:
            raise RuntimeError
        with slots, pytest.raises(Overloaded, match="2 calls are served now"), slots:
            pass
        with slots:
            pass


@pytest.mark.parametrize("size_bytes", [0, 100, SMALL_BYTES + 1, 2 * MIB])
async def test_a_request_takes_room_while_it_is_served(size_bytes: int) -> None:
    reception = Reception(ServerSettings())
    sent = raw(size_bytes)

    async def behaviour(request: Any, context: Any) -> int:
        taken, calls = used(reception)
        assert calls == 1
        assert len(sent) <= taken <= (FIELDS_IN_MEMORY + 1) * SMALL_BYTES + len(sent)
        return len(request.images[0])

    assert await served(unary(reception, behaviour), FakeContext([sent])) == str(size_bytes)
    assert used(reception) == (0, 0)


@pytest.mark.parametrize("ending", [InvalidField("f", "x"), asyncio.CancelledError(), KeyError()])
async def test_a_call_that_fails_gives_its_room_back(ending: BaseException) -> None:
    reception = Reception(ServerSettings())

    async def behaviour(request: Any, context: Any) -> None:
        raise ending

    with pytest.raises(type(ending)):
        await served(unary(reception, behaviour), FakeContext([raw(100)]))

    async def streaming(requests: Any, context: Any) -> AsyncIterator[int]:
        async for _ in requests:
            yield 1
            raise ending

    with pytest.raises(type(ending)):
        await served(stream(reception, streaming), FakeContext([raw(100), raw(100)]))
    assert used(reception) == (0, 0)


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ([], "is missing"),
        ([b"\xff\xff"], "cannot be parsed as wentu.v1.EncodeImagesRequest"),
        ([raw(2 * MIB)], "has 2,097,1.. bytes; the limit is 1,048,576"),
    ],
)
async def test_what_cannot_be_taken_never_reaches_the_service(sent: list[bytes], problem: str) -> None:
    reception = Reception(ServerSettings(max_request_bytes=MIB))

    async def behaviour(request: Any, context: Any) -> None:
        raise AssertionError

    with pytest.raises(UnreadableRequest, match=problem):
        await served(unary(reception, behaviour), FakeContext(sent))
    assert used(reception) == (0, 0)


async def test_a_full_service_refuses_and_another_goes_on() -> None:
    reception = Reception(ServerSettings(max_concurrent_calls=1))
    going = asyncio.Event()

    async def behaviour(request: Any, context: Any) -> str:
        await going.wait()
        return "done"

    busy = unary(reception, behaviour)
    other = reception.serve(
        grpc.unary_unary_rpc_method_handler(behaviour, Request.FromString, as_text), "/other/Method"
    )
    calls = [asyncio.create_task(served(serve, FakeContext([b""]))) for serve in (busy, busy, other)]
    await asyncio.sleep(0)
    going.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) if isinstance(each, Exception) else each for each in results] == ["done", Overloaded, "done"]
    assert await served(busy, FakeContext([b""])) == "done"


async def test_a_caller_that_has_sent_nothing_takes_no_place() -> None:
    reception = Reception(ServerSettings(max_concurrent_calls=1, idle_stream_seconds=0.2))

    async def behaviour(request: Any, context: Any) -> str:
        return "done"

    silent = FakeContext([b""])
    silent.reads.clear()
    waiting = asyncio.create_task(served(unary(reception, behaviour), silent))
    await asyncio.sleep(0)
    assert used(reception) == (0, 0)
    assert await served(unary(reception, behaviour), FakeContext([b""])) == "done"
    with pytest.raises(IdleCall, match="sent nothing"):
        await waiting


async def test_more_than_fits_is_refused_of_calls_and_awaited_of_streams() -> None:
    reception = Reception(ServerSettings(max_received_bytes=4 * MIB))
    begun, going = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, context: Any) -> str:
        begun.set()
        await going.wait()
        return "done"

    async def streaming(requests: Any, context: Any) -> AsyncIterator[str]:
        async for _ in requests:
            yield "answer"

    first = asyncio.create_task(served(unary(reception, behaviour), FakeContext([raw(3 * MIB)])))
    await begun.wait()
    with pytest.raises(Overloaded, match=r"requests may hold 4,194,304 bytes"):
        await served(unary(reception, behaviour), FakeContext([raw(2 * MIB)]))
    context = FakeContext([raw(2 * MIB), raw(2 * MIB)])
    second = asyncio.create_task(served(stream(reception, streaming), context))
    await asyncio.sleep(0.05)
    assert context.answers == []
    going.set()
    await first
    await second
    assert context.answers == ["answer", "answer"]
    assert used(reception) == (0, 0)


async def test_a_message_of_a_stream_keeps_its_room_until_it_is_answered() -> None:
    """As in AddImages: the first message is the options, which nobody answers."""
    reception = Reception(ServerSettings())
    held: list[int] = []

    async def streaming(requests: Any, context: Any) -> AsyncIterator[int]:
        taken = [request async for request in requests]
        held.append(used(reception)[0])
        for place in range(len(taken) - 1):
            yield place
            held.append(used(reception)[0])

    context = FakeContext([raw(1000) for _ in range(4)])
    await served(stream(reception, streaming), context)
    one = len(raw(1000)) * FIELDS_IN_MEMORY
    assert context.answers == ["0", "1", "2"]
    assert held == [4 * one, 3 * one, 2 * one, one]
    assert used(reception) == (0, 0)


async def test_a_message_of_a_stream_without_answers_is_done_once_the_next_is_asked_for() -> None:
    reception = Reception(ServerSettings())

    async def behaviour(requests: Any, context: Any) -> list[int]:
        return [used(reception)[0] async for _ in requests]

    serve = reception.serve(grpc.stream_unary_rpc_method_handler(behaviour, Request.FromString, as_text), METHOD)
    one = len(raw(1000)) * FIELDS_IN_MEMORY
    assert await served(serve, FakeContext([raw(1000)] * 3)) == str([one] * 3)
    assert used(reception) == (0, 0)


async def test_a_caller_that_is_gone_ends_its_answers() -> None:
    reception = Reception(ServerSettings())
    closed: list[bool] = []

    class Gone(FakeContext):
        async def write(self, answer: Any) -> None:
            raise aio.InternalError("gone")

    async def streaming(request: Any, context: Any) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    serve = reception.serve(grpc.unary_stream_rpc_method_handler(streaming, Request.FromString, as_text), METHOD)
    with pytest.raises(asyncio.CancelledError):
        await served(serve, Gone([b""]))
    assert closed == [True]
    assert used(reception) == (0, 0)
