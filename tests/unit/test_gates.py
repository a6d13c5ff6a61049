"""A lock that many may share or one may have alone."""

from __future__ import annotations

import asyncio

from services.retriever.milvus.gates import Gate


async def test_a_writer_is_alone_and_not_passed_by_readers() -> None:
    gate, order = Gate(), []

    async def enter(name: str, alone: bool) -> None:
        async with gate.alone() if alone else gate.shared():
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    async with asyncio.TaskGroup() as group:
        for name, alone in (("a", False), ("b", False), ("w", True), ("c", False)):
            group.create_task(enter(name, alone))
    assert order == ["a in", "b in", "a out", "b out", "w in", "w out", "c in", "c out"]


async def test_who_waits_no_more_keeps_nobody_out() -> None:
    gate = Gate()

    async def alone() -> None:
        async with gate.alone():
            pass

    async with gate.shared():
        waiting = asyncio.create_task(alone())
        await asyncio.sleep(0)
        waiting.cancel()
        async with asyncio.timeout(1), gate.shared():
            pass
    async with asyncio.timeout(1):
        await alone()


async def test_one_that_gives_up_as_another_leaves_lets_nobody_in() -> None:
    gate = Gate()

    async def enter(held: asyncio.Event) -> None:
        async with gate.alone():
            await held.wait()

    first, second = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(enter(held)) for held in (first, first, second)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    first.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reader = asyncio.ensure_future(gate.shared().__aenter__())
    await asyncio.sleep(0.01)
    assert not reader.done(), "the third is alone"
    second.set()
    await asyncio.wait_for(reader, 1)
    await asyncio.gather(*tasks, return_exceptions=True)
