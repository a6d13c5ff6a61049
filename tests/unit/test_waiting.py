"""Waits that end, work on threads, and work that is repeated."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.maintenance import counting
from gateway.maintenance.counting import repeat
from services.common.errors import IdleCall, InternalError
from services.common.thread_pool import LARGE_BYTES, ThreadPool, aside
from services.common.waiting import Patience, Wait
from tests.unit import virtual_time


async def waiting(patience: Patience, seconds: float) -> str:
    """A wait of the task that this runs in."""
    return await patience.wait(Wait(), asyncio.sleep(seconds, "done"), "sent nothing")


def test_a_wait_ends_when_its_time_is_over_and_an_eighth_late_at_most() -> None:
    async def waits(began_after: float) -> float:
        patience = Patience(8)
        loop = asyncio.get_running_loop()
        other = asyncio.create_task(waiting(patience, 20))
        await asyncio.sleep(began_after)
        started = loop.time()
        with pytest.raises(IdleCall, match="sent nothing for 8 s"):
            await waiting(patience, 1000)
        took = loop.time() - started
        with pytest.raises(IdleCall):
            await other
        return took

    with pytest.MonkeyPatch.context() as patch:
        for began_after in (0.0, 0.3, 0.99, 1.0, 5.5):
            patch.setattr("services.common.waiting.time.monotonic", lambda: asyncio.get_running_loop().time())
            assert 8 <= virtual_time.run(waits(began_after)) <= 9 + 1e-6


def test_a_caller_that_leaves_is_not_told_that_it_is_idle() -> None:
    async def leaves() -> bool:
        task = asyncio.create_task(waiting(Patience(8), 1000))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert virtual_time.run(leaves())


def test_nothing_is_looked_at_while_nobody_waits() -> None:
    async def idle() -> None:
        patience = Patience(8)
        assert await waiting(patience, 0.1) == "done"
        await asyncio.sleep(2)
        assert patience._timer is None
        assert not patience._waits
        assert await waiting(patience, 0.1) == "done"

    virtual_time.run(idle())


async def test_small_work_stays_and_large_work_goes_to_a_thread() -> None:
    here = threading.get_ident()
    assert await aside(LARGE_BYTES, threading.get_ident) == here
    assert await aside(LARGE_BYTES + 1, threading.get_ident) != here
    with pytest.raises(ZeroDivisionError):
        await aside(LARGE_BYTES + 1, lambda: 1 // 0)


async def test_a_pool_has_so_many_threads_and_drops_what_waits_when_it_closes() -> None:
    pool = ThreadPool(2, "named")
    begun, go_on = threading.Semaphore(0), threading.Event()

    def work() -> str:
        begun.release()
        assert go_on.wait(10)
        return threading.current_thread().name

    tasks = [asyncio.create_task(pool.run(work)) for _ in range(3)]
    for _ in range(2):
        assert await asyncio.to_thread(begun.acquire, timeout=10)
    assert not begun.acquire(timeout=0.01), "the third waits"
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    await asyncio.wait(tasks[2:], timeout=10)
    go_on.set()
    await closing
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(map(str, results[:2])) == ["named_0", "named_1"]
    assert isinstance(results[2], asyncio.CancelledError)


def test_what_is_repeated_rests_longer_if_it_takes_long_and_outlives_what_it_raises() -> None:
    began: list[float] = []

    async def work() -> None:
        began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1 if len(began) < 3 else 5)
        raise InternalError if len(began) % 2 else ValueError

    async def some() -> None:
        task = asyncio.create_task(repeat(work, 12))
        await asyncio.sleep(130)
        task.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.common.waiting.time.monotonic", lambda: asyncio.get_running_loop().time())
        virtual_time.run(some())
    # One second of work, and then 11 or 9 times as long; five seconds, and then 45.
    assert began == pytest.approx([0, 12, 24, 74, 124])
    assert counting.REST == 9
