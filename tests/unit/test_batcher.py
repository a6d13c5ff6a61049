"""The batcher: which items share a batch, which are refused, and that each caller gets the vectors of its items."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client import CollectorRegistry

from services.common.calls import incoming
from services.common.errors import DeadlineExceeded, Overloaded, ShuttingDown, UpstreamUnavailable
from services.encoder.batcher import Batcher
from services.encoder.metrics import EncoderMetrics
from tests.support.threads import KILLS, kill_thread


@dataclass
class Device:
    """A batch function whose vector of a number is that number. A test can make it wait."""

    def __post_init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def compute(self, items: Sequence[int]) -> npt.NDArray[np.float32]:
        self.batches.append(list(items))
        self.begun.set()
        assert self.go_on.wait(30)
        if 13 in items:
            raise RuntimeError("13")
        return np.array([[item, item] for item in items], dtype=np.float32)


@asynccontextmanager
async def batching(**limits: Any) -> AsyncIterator[tuple[Device, Batcher[int], CollectorRegistry]]:
    device, registry = Device(), CollectorRegistry()
    given = {"max_batch": 4, "max_items": 100, **limits}
    batcher: Batcher[int] = Batcher("numbers", device.compute, EncoderMetrics(registry), **given)
    yield device, batcher, registry
    device.go_on.set()
    await batcher.close()


async def begun(device: Device) -> None:
    assert await asyncio.to_thread(device.begun.wait, 10)


def ask(batcher: Batcher[int], *numbers: int) -> asyncio.Task[list[int]]:
    async def answer() -> list[int]:
        with batcher.admitted(len(numbers), len(numbers)):
            return [int(vector[0]) for vector in await batcher.submit(numbers)]

    return asyncio.create_task(answer())


def dropped(registry: CollectorRegistry, cause: str, tower: str = "numbers") -> float:
    return registry.get_sample_value("wentu_encoder_dropped_total", {"tower": tower, "cause": cause}) or 0


async def test_an_idle_device_starts_at_once_and_a_busy_one_takes_what_came() -> None:
    async with batching() as (device, batcher, registry):
        first = ask(batcher, 1)
        await begun(device)
        others = [ask(batcher, number) for number in (2, 3, 4, 5, 6)]
        await asyncio.sleep(0.01)
        device.go_on.set()
        assert await first == [1]
        assert [await other for other in others] == [[2], [3], [4], [5], [6]]
        assert device.batches == [[1], [2, 3, 4, 5], [6]]
        assert registry.get_sample_value("wentu_encoder_batch_items_sum", {"tower": "numbers"}) == 6
        assert registry.get_sample_value("wentu_encoder_waiting", {"tower": "numbers"}) == 0


async def test_a_batch_holds_those_alike_and_the_oldest_goes_first() -> None:
    async with batching(alike=lambda number: number % 2) as (device, batcher, _):
        waiting = [ask(batcher, 1)]
        await begun(device)
        waiting += [ask(batcher, number) for number in (2, 3, 4, 5)]
        await asyncio.sleep(0.01)
        device.go_on.set()
        assert [await each for each in waiting] == [[1], [2], [3], [4], [5]]
        assert device.batches == [[1], [2, 4], [3, 5]]


async def test_too_much_is_refused_at_the_door() -> None:
    async with batching(max_items=5, max_bytes=1000) as (device, batcher, registry):
        first = ask(batcher, 1)
        await begun(device)
        waiting = ask(batcher, 2, 3, 4)
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="4 numbers are in hand; the limit is 5") as caught, batcher.admitted(2):
            pass
        assert caught.value.retry_after_seconds
        with pytest.raises(Overloaded, match="4 bytes of numbers are in hand"), batcher.admitted(1, 997):
            pass
        assert dropped(registry, "overloaded") == 3
        device.go_on.set()
        assert (await first, await waiting) == ([1], [2, 3, 4])
        with batcher.admitted(5, 1000):
            assert registry.get_sample_value("wentu_encoder_in_hand", {"tower": "numbers"}) == 5


async def test_a_caller_whose_turn_would_come_too_late_is_refused_at_once() -> None:
    async with batching() as (device, batcher, _):
        started = ask(batcher, 1)
        await begun(device)
        await asyncio.sleep(0.3)
        device.go_on.set()
        await started  # 0.3 s per item
        device.go_on.clear()
        device.begun.clear()
        waiting = ask(batcher, 2, 3)
        await begun(device)
        with incoming("", 0.2), pytest.raises(Overloaded, match=r"2 numbers are in hand, for 0.\d+ s; the dead"):
            await ask(batcher, 4)
        with incoming("", 60):
            patient = ask(batcher, 5)
        device.go_on.set()
        assert (await waiting, await patient) == ([2, 3], [5])


async def test_nobody_is_made_late_by_those_that_share_the_batch() -> None:
    async with batching(max_batch=8) as (device, batcher, _):
        started = ask(batcher, 1)
        await begun(device)
        await asyncio.sleep(0.3)
        device.go_on.set()
        await started  # 0.3 s per item
        device.go_on.clear()
        device.begun.clear()
        first = ask(batcher, 2)
        await begun(device)
        with incoming("", 1.25):
            pressed = ask(batcher, 3)
        patient = [ask(batcher, number) for number in (4, 5, 6, 7, 8)]
        await asyncio.sleep(0.5)
        device.go_on.set()
        await asyncio.gather(first, pressed, *patient)
        assert device.batches[2] == [3, 4], "0.75 s are left, for two of 0.3 s"


async def test_neighbours_of_the_cancelled_and_the_expired_get_their_own() -> None:
    async with batching(max_batch=8) as (device, batcher, registry):
        first = ask(batcher, 1)
        await begun(device)
        good = [ask(batcher, number) for number in (2, 3)]
        left = ask(batcher, 4, 5)
        with incoming("", 0.05):
            late = ask(batcher, 6)
        good += [ask(batcher, number) for number in (7, 8)]
        await asyncio.sleep(0.06)
        left.cancel()
        await asyncio.sleep(0.01)
        device.go_on.set()
        assert await first == [1]
        assert [await each for each in good] == [[2], [3], [7], [8]]
        with pytest.raises(DeadlineExceeded):
            await late
        assert device.batches == [[1], [2, 3, 7, 8]], "what nobody waits for never reached the device"
        assert (dropped(registry, "cancelled"), dropped(registry, "expired")) == (2, 1)


async def test_an_engine_that_fails_fails_its_batch_and_goes_on() -> None:
    async with batching() as (device, batcher, _):
        device.go_on.set()
        with pytest.raises(RuntimeError, match="13"):
            await ask(batcher, 13)
        assert await ask(batcher, 14) == [14]


async def test_what_waits_is_refused_at_the_end() -> None:
    async with batching() as (device, batcher, _):
        first = ask(batcher, 1)
        await begun(device)
        waiting = ask(batcher, 2)
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        device.go_on.set()
        assert await first == [1], "what is being computed is answered"
        with pytest.raises(ShuttingDown):
            await waiting
        await closing
        with pytest.raises(ShuttingDown):
            await ask(batcher, 3)


@KILLS
async def test_those_of_a_dead_worker_are_told() -> None:
    async with batching() as (device, batcher, _):
        first = ask(batcher, 1)
        await begun(device)
        waiting = ask(batcher, 2)
        await asyncio.sleep(0.01)
        kill_thread("numbers")
        device.go_on.set()
        for each in (first, waiting):
            with pytest.raises(UpstreamUnavailable, match="worker of the numbers died"):
                await each
        with pytest.raises(UpstreamUnavailable):
            await batcher.check(3, 1)


async def test_whoever_comes_and_leaves_everybody_gets_their_own() -> None:
    """Callers come, cancel and run out of time at random, on a device that fails from time to time."""
    rng = random.Random(5)
    async with batching(max_batch=4, max_items=60, alike=lambda number: number % 3) as (device, batcher, registry):
        device.go_on.set()
        calls: list[tuple[tuple[int, ...], asyncio.Task[list[int]]]] = []
        for _ in range(400):
            numbers = tuple(rng.choices(range(14), weights=[9] * 13 + [1], k=rng.randint(1, 5)))
            with incoming("", rng.choice([None, 10, 0.001])):
                calls.append((numbers, ask(batcher, *numbers)))
            if rng.random() < 0.3:
                rng.choice(calls)[1].cancel()
            await asyncio.sleep(0.0002 if rng.random() < 0.5 else 0)
        answers = await asyncio.gather(*(task for _, task in calls), return_exceptions=True)
        for (numbers, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, BaseException):
                assert isinstance(answer, asyncio.CancelledError | DeadlineExceeded | Overloaded | RuntimeError)
                assert not isinstance(answer, RuntimeError) or 13 in numbers or "13" in str(answer)
            else:
                assert answer == list(numbers)
        assert sum(isinstance(answer, list) for answer in answers) > 100
        assert all(len(batch) <= 4 and len({number % 3 for number in batch}) == 1 for batch in device.batches)
        for gauge in ("in_hand", "waiting"):
            assert registry.get_sample_value(f"wentu_encoder_{gauge}", {"tower": "numbers"}) == 0
