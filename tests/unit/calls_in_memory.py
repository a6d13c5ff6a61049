"""A call as gRPC hands it to a server, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc import aio


class FakeContext:
    """What a ServicerContext does of what the interceptors use. `sent`: the caller's messages, unparsed."""

    def __init__(
        self, sent: Sequence[bytes] = (), metadata: Sequence[tuple[str, str]] = (), seconds: float | None = None
    ) -> None:
        self._sent = list(sent)
        self._metadata = metadata
        self._seconds = seconds
        self.answers: list[Any] = []
        self.trailing: tuple[tuple[str, str | bytes], ...] = ()
        self.status: grpc.StatusCode | None = None
        self.details = ""
        # Set while the caller is to wait with its next message.
        self.reads = asyncio.Event()
        self.reads.set()

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._seconds

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self.trailing = metadata

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self.trailing

    def code(self) -> grpc.StatusCode | None:
        return self.status

    async def read(self) -> Any:
        await self.reads.wait()
        return self._sent.pop(0) if self._sent else aio.EOF

    async def write(self, answer: Any) -> None:
        self.answers.append(answer)

    async def abort(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str | bytes], ...]) -> None:
        self.status, self.details, self.trailing = code, details, trailing
        raise aio.AbortError
