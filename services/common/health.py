"""Readiness that does something real: each watched service has a check that is run again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from grpc_health.v1 import health, health_pb2

log = structlog.get_logger()

Check = Callable[[], Awaitable[None]]
# A check that fails shows within a second.
INTERVAL_SECONDS = 0.5
TIMEOUT_SECONDS = 3.0

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Readiness:
    """Keeps the standard health service in step with the checks. A check passes by returning."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._checks = dict(checks)
        self._last: dict[str, bool] = {}

    async def begin(self) -> None:
        """NOT_SERVING for every name until the first checks pass; grpc_health itself would say SERVING for ''."""
        for name in ("", *self._checks):
            await self.servicer.set(name, NOT_SERVING)

    async def check_all(self) -> None:
        results = await asyncio.gather(*(self._passes(name, check) for name, check in self._checks.items()))
        for name, passed in zip(self._checks, results, strict=True):
            if self._last.get(name) != passed:
                log.info("readiness", name=name, serving=passed)
                self._last[name] = passed
                await self.servicer.set(name, SERVING if passed else NOT_SERVING)

    async def _passes(self, name: str, check: Check) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await check()
        except Exception as error:
            if self._last.get(name) is not False:
                log.warning("not ready", name=name, problem=f"{type(error).__name__}: {error}")
            return False
        return True

    async def watch(self) -> None:
        """Runs the checks until cancelled."""
        while True:
            await self.check_all()
            await asyncio.sleep(INTERVAL_SECONDS)
