"""A service behind the gateway: its channel and its health."""

from __future__ import annotations

from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from services.common.calls import calling, outgoing
from services.common.channels import open_channel
from services.common.errors import UpstreamUnavailable

HEALTH_SECONDS = 2.0


class Upstream:
    """One service, whatever the number of its replicas."""

    def __init__(self, name: str, address: str, settings: GatewaySettings) -> None:
        self.name = name
        self.address = address
        self.channel: aio.Channel = open_channel(address, max_message_bytes=settings.max_message_bytes)

    async def serves(self, service: str = "") -> bool:
        """What its health service says of a service, or of the whole process. Raises WentuError if it does not answer.

        A process serves on while its own service does not, if it can still read: a retriever whose disk is full.
        """
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        async with calling(self.name):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), **outgoing(HEALTH_SECONDS))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def check(self) -> None:
        """Passes where it serves."""
        if not await self.serves():
            raise UpstreamUnavailable(self.name, "it is not serving")
