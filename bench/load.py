"""Load on a running service: a fixed number of callers that wait for each answer, or a fixed rate of calls."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from grpc import aio

Call = Callable[[Any], Awaitable[Any]]


@dataclass
class Outcomes:
    """Times in seconds: `latencies` of the answered calls, `refusals` of the other calls by status code."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    refusals: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Latencies of the answered calls in milliseconds."""
        return float(np.percentile(self.latencies, percent) * 1000)


async def _one(call: Call, request: Any, outcomes: Outcomes) -> None:
    started = time.perf_counter()
    try:
        await call(request)
    except aio.AioRpcError as error:
        outcomes.refusals.setdefault(error.code().name, []).append(time.perf_counter() - started)
    else:
        ended = time.perf_counter()
        outcomes.latencies.append(ended - started)
        outcomes.finished.append(ended)


async def callers(count: int, seconds: float, call: Call, requests: Sequence[Any]) -> Outcomes:
    """`count` callers, each asking again as soon as it is answered, for `seconds`; the first ones are not counted."""
    outcomes, turn = Outcomes(), itertools.count()
    started = time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - started < seconds:
            await _one(call, requests[next(turn) % len(requests)], outcomes)

    await asyncio.gather(*(caller() for _ in range(count)))
    outcomes.seconds = time.perf_counter() - started
    return outcomes


async def arrivals(rate: float, seconds: float, call: Call, requests: Sequence[Any]) -> Outcomes:
    """Send `rate` requests per second at random moments (Poisson), without waiting for earlier answers."""
    outcomes, rng = Outcomes(), np.random.default_rng(0)
    tasks: set[asyncio.Task[None]] = set()
    started = due = time.perf_counter()
    for turn in itertools.count():
        due += rng.exponential(1 / rate)
        if due - started > seconds:
            break
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(_one(call, requests[turn % len(requests)], outcomes))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    outcomes.seconds = seconds
    return outcomes
