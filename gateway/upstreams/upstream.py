"""A service behind the gateway: its channel, its health, and how it is called."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from services.common.calls import calling, outgoing
from services.common.channels import open_channel
from services.common.errors import UpstreamUnavailable

HEALTH_SECONDS = 2.0
Request = TypeVar("Request")
Response = TypeVar("Response")


class Upstream:
    """One service with any number of replicas.

    Every call carries the request id and the rest of the caller's deadline. A failed call raises one of this project's
    errors.
    """

    def __init__(self, name: str, address: str, settings: GatewaySettings) -> None:
        self.name = name
        self.address = address
        self.channel: aio.Channel = open_channel(
            address, max_message_bytes=settings.max_message_bytes, use_proxy=settings.use_proxy
        )
        self._limit_seconds = settings.timeout_seconds

    async def call(
        self,
        method: aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        limit_seconds: float = math.inf,
    ) -> Response:
        """Call a method of the service. It may take `limit_seconds`, or less if the settings say so."""
        async with calling(self.name):
            return await method(request, **outgoing(min(limit_seconds, self._limit_seconds)))

    async def stream(
        self, method: aio.UnaryStreamMultiCallable[Request, Response], request: Request
    ) -> AsyncIterator[Response]:
        """As `call`, for a method that answers with several messages."""
        async with calling(self.name):
            async for part in method(request, **outgoing(self._limit_seconds)):
                yield part

    async def serves(self, service: str = "") -> bool:
        """The health of `service`, or of the whole process. Raises WentuError if it does not answer.

        A process may serve although its own service does not: a retriever with a full disk can still search.
        """
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        answer: Any = await self.call(stub.Check, health_pb2.HealthCheckRequest(service=service), HEALTH_SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def check(self) -> None:
        """Passes if it serves. Raises UpstreamUnavailable."""
        if not await self.serves():
            raise UpstreamUnavailable(self.name, "it is not serving")

    async def close(self) -> None:
        await self.channel.close()
