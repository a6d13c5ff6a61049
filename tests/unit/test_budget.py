"""The byte budget: in turn, within the deadline, and nothing is lost when somebody gives up."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

from services.common.budget import ByteBudget
from services.common.errors import DeadlineExceeded, Overloaded


async def test_who_wants_more_than_is_left_waits_in_turn() -> None:
    budget = ByteBudget(100, "the test")
    first, second, third = budget.share(), budget.share(), budget.share()
    await first.wait(80, 1)
    waiting = asyncio.create_task(second.wait(50, 5))
    await asyncio.sleep(0)
    small = asyncio.create_task(third.wait(10, 5))
    await asyncio.sleep(0.01)
    assert (waiting.done(), small.done(), budget.used_bytes) == (False, False, 80), "the small one does not overtake"
    first.shrink(50)
    await waiting
    assert budget.used_bytes == 100
    second.release()
    await small
    assert budget.used_bytes == 60


async def test_giving_up_frees_the_place() -> None:
    budget = ByteBudget(100, "the test")
    held, waiting, behind = budget.share(), budget.share(), budget.share()
    await held.wait(60, 1)
    with pytest.raises(Overloaded, match="the test may hold 100 bytes") as caught:
        await waiting.wait(50, 0.01)
    assert caught.value.retry_after_seconds
    cancelled = asyncio.create_task(waiting.wait(50, 5))
    await asyncio.sleep(0)
    last = asyncio.create_task(behind.wait(30, 5))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    await last
    held.release()
    held.release()
    behind.release()
    assert budget.used_bytes == 0


def test_one_larger_than_the_budget_is_served_alone() -> None:
    budget = ByteBudget(100, "the test")
    with budget.share() as small, budget.share() as huge:
        small.take(1, None)
        with pytest.raises(DeadlineExceeded):
            huge.take(1000, 0.01)
        small.release()
        huge.take(1000, 0.01)
        with pytest.raises(DeadlineExceeded):
            small.take(1, 0.01)
    assert budget.used_bytes == 0


def test_what_grows_is_refused_and_does_not_wait() -> None:
    budget = ByteBudget(100, "the test")
    with budget.share() as one, budget.share() as two:
        one.grow(60)
        two.grow(30)
        with pytest.raises(Overloaded):
            one.grow(20)
        assert budget.used_bytes == 90
    assert budget.used_bytes == 0


def test_threads_never_hold_more_than_the_limit() -> None:
    budget = ByteBudget(100, "the test")
    most, gave_up = 0, 0

    def work(seed: int) -> None:
        nonlocal most, gave_up
        rng = random.Random(seed)
        for _ in range(40):
            try:
                with budget.share() as share:
                    share.take(rng.randint(1, 60), rng.choice([0.0005, 5]))
                    most = max(most, budget.used_bytes)
                    time.sleep(0.0002)
            except DeadlineExceeded:
                gave_up += 1

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.used_bytes == 0
    assert 60 < most <= 100
    assert gave_up


async def test_what_holds_bytes_while_it_waits_is_limited() -> None:
    budget = ByteBudget(100, "the test", max_waiting_bytes=100)
    alone, small, first, second = (budget.share() for _ in range(4))
    alone.grow(500)  # one alone may be larger than all
    with pytest.raises(Overloaded):
        small.grow(1)
    waiting = asyncio.create_task(first.wait(60, None))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await second.wait(60, None)
    alone.release()
    await waiting
    assert budget.used_bytes == 60
    behind = asyncio.create_task(second.wait(60, None))
    await asyncio.sleep(0)
    small.grow(40)  # what is free is not kept for those that wait
    behind.cancel()
    await asyncio.gather(behind, return_exceptions=True)
    first.release()
    small.release()
    assert budget.used_bytes == 0
