"""Readiness by real work: the check of each watched service runs repeatedly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from grpc_health.v1 import health, health_pb2

log = structlog.get_logger()

Check = Callable[[], Awaitable[None]]
# A failing check becomes visible within a second.
INTERVAL_SECONDS = 0.5
TIMEOUT_SECONDS = 3.0

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Readiness:
    """Updates the standard health service from the checks. A check passes if it returns without an error."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._checks = dict(checks)
        self._last: dict[str, bool] = {}

    async def begin(self) -> None:
        """Every name is NOT_SERVING until its first check passes. grpc_health itself would start '' as SERVING."""
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
        """Run the checks until cancelled."""
        while True:
            await self.check_all()
            await asyncio.sleep(INTERVAL_SECONDS)
