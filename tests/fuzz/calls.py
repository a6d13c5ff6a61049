"""Makes a call of raw bytes, as a client in any language may, and keeps how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from services.common.limits import MIB
from tests.fuzz.attempts import Attempt, Ending
from tests.fuzz.contract import PORT_OFFSETS, parsed
from tests.support.system import Refusal, System, refusal

# A call that takes longer has failed.
CALL_SECONDS = 20.0
# If a unary call ends without its message, grpc's asyncio server never answers, and it runs no code of ours. Only the
# client's deadline ends such a call.
EMPTY_SECONDS = 0.2
HURRY_SECONDS = 0.001
ENDLESS_MESSAGES = 64
READ_ANSWERS = 50


@dataclass(frozen=True)
class Outcome:
    """How a call ended: with an error or with answers, and whether the client itself ended it."""

    error: Refusal | None
    answers: tuple[Message, ...]
    cut_by_client: bool
    seconds: float

    def __repr__(self) -> str:
        if self.error is None:
            return f"OK with {len(self.answers)} answers"
        return f"{self.error.code.name} {self.error.reason or 'without ErrorInfo'}: {self.error.message[:500]}"


class Caller:
    """Channels to every process of a system."""

    def __init__(self, system: System) -> None:
        size = 64 * MIB
        options = [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", -1)]
        self._channels = {
            process: grpc.insecure_channel(f"127.0.0.1:{system.port + offset}", options)
            for process, offset in PORT_OFFSETS.items()
        }

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def __call__(self, attempt: Attempt) -> Outcome:
        """Call a method as a stream: on the wire a unary call looks the same, and any stream can be sent."""
        unheard = not attempt.frames and not attempt.method.takes_stream
        hurried = attempt.ending is Ending.HURRIES
        seconds = HURRY_SECONDS if hurried else EMPTY_SECONDS if unheard else CALL_SECONDS
        started = time.perf_counter()
        begin: Any = self._channels[attempt.method.process].stream_stream(attempt.method.path)
        call = begin(_frames(attempt), timeout=seconds)
        if attempt.ending is Ending.CANCELS:
            time.sleep(0.002)
            call.cancel()
        answers: list[Message] = []
        error: Refusal | None = None
        full = False
        try:
            for data in call:
                answers.append(_answer(attempt, data))
                if len(answers) == READ_ANSWERS:
                    full = call.cancel()
                    break
        except grpc.RpcError:
            error = refusal(call)
        ended = {grpc.StatusCode.CANCELLED} if attempt.ending is Ending.CANCELS else set()
        if hurried or unheard:
            ended |= {grpc.StatusCode.DEADLINE_EXCEEDED}
        cut = full or (error is not None and error.code in ended)
        return Outcome(error, tuple(answers), cut, time.perf_counter() - started)


def _frames(attempt: Attempt) -> Iterator[bytes]:
    yield from attempt.frames
    if attempt.ending is Ending.GOES_ON and attempt.frames:
        for _ in range(ENDLESS_MESSAGES):
            yield attempt.frames[-1]


def _answer(attempt: Attempt, data: bytes) -> Message:
    try:
        return parsed(attempt.method.response, data)
    except DecodeError as error:
        raise AssertionError(f"the answer cannot be parsed: {attempt!r}") from error
