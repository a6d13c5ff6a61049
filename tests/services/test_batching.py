"""The encoder's server under many callers, overload, and callers that cancel.

It is started as `python -m services.encoder` starts it. tests/unit/test_batcher.py has the tests of the batcher alone.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import encoder_pb2 as pb
from protos import encoder_pb2_grpc
from services.common.channels import open_channel
from services.encoder.__main__ import running
from services.encoder.settings import EncoderSettings
from tests.support.images import drawn, encoded, gallery, huge_png
from tests.support.servers import free_ports
from tests.support.system import refusal
from tests.support.threads import KILLS, kill_thread


@dataclass
class Served:
    channel: aio.Channel
    encoder: Any
    metrics_port: int

    def texts(self, *texts: str, **options: Any) -> Any:
        return self.encoder.EncodeTexts(pb.EncodeTextsRequest(texts=texts), **options)

    def images(self, *images: bytes, **options: Any) -> Any:
        return self.encoder.EncodeImages(pb.EncodeImagesRequest(images=images), **options)

    def metric(self, line: str) -> float:
        """The value of one line of the metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as page:
            found = [each for each in page.read().decode().splitlines() if each.startswith(line + " ")]
        return float(found[0].split()[-1]) if found else 0.0

    async def health(self) -> str:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@asynccontextmanager
async def serving(tmp_path: Path, **settings: Any) -> AsyncIterator[Served]:
    port = free_ports(1)
    given = {"port": 0, "metrics_port": port, "compiled_cache": tmp_path, "shutdown_grace_seconds": 0.1, **settings}
    async with (
        running(EncoderSettings(**given)) as bound,
        open_channel(f"127.0.0.1:{bound}", direct=True, max_message_bytes=-1) as channel,
    ):
        yield Served(channel, encoder_pb2_grpc.EncoderServiceStub(channel), port)


def vector(answer: pb.EncodeTextsResponse) -> npt.NDArray[np.float32]:
    return np.array(answer.results[0].embedding.values, dtype=np.float32)


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_ten_thousand_callers_who_leave_leave_nothing_behind(tmp_path: Path) -> None:
    """Callers cancel at random moments. The others get the vectors of their own inputs."""
    seeded = random.Random(7)
    words = "红黄蓝绿黑白大小老新" + "狗猫鸟鱼花树山水车船"
    async with serving(
        tmp_path, text_cache=0, max_queue_texts=100_000, max_concurrent_calls=100_000, max_connection_calls=100_000
    ) as served:
        sentences = ["".join(seeded.choices(words, k=seeded.randint(1, 30))) for _ in range(40)]
        wanted = {each: vector(await served.texts(each)) for each in sentences}
        image = encoded(drawn(200, 150), "JPEG")
        await asyncio.gather(*(served.images(image) for _ in range(20)))  # by now every thread exists
        await asyncio.sleep(0.1)
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        leavers, stayers = 0, []
        for _ in range(40):
            calls = []
            for _ in range(250):
                text = seeded.choice(sentences)
                call = served.images(image) if seeded.random() < 0.02 else served.texts(text)
                asyncio.get_running_loop().call_later(seeded.uniform(0, 0.15), call.cancel)
                calls.append(call)
            kept = [(text, served.texts(text)) for text in seeded.sample(sentences, 5)]
            for call in calls:
                try:
                    await call
                except asyncio.CancelledError:
                    leavers += 1
            stayers += [(text, vector(await call)) for text, call in kept]
        assert leavers > 5000, "most left before their answer"
        for text, got in stayers:
            assert got @ wanted[text] >= 0.99999
        for tower in ("texts", "images"):
            await until(lambda tower=tower: served.metric(f'wentu_encoder_in_hand{{tower="{tower}"}}') == 0)  # type: ignore[misc]
            assert served.metric(f'wentu_encoder_waiting{{tower="{tower}"}}') == 0
        assert served.metric('wentu_encoder_dropped_total{cause="cancelled",tower="texts"}') > 100
        gc.collect()
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: threading.active_count() <= threads)


async def test_no_neighbour_is_harmed(tmp_path: Path) -> None:
    """Good images, broken images, a caller that cancels and one whose deadline passes, all at once."""
    good = [image.data for image in gallery()[:6]]
    jpeg = encoded(drawn(400, 300), "JPEG")
    bad = [jpeg[: len(jpeg) // 2], b"", huge_png()]
    odd = [encoded(drawn().convert("CMYK"), "JPEG"), encoded(drawn(1, 1))]
    async with serving(tmp_path) as served:
        alone = [np.array((await served.images(data)).results[0].embedding.values) for data in good]
        for _ in range(5):
            mixed = served.images(good[0], *bad, good[1], *odd, good[2])
            leaver = served.images(*good)
            late = served.images(*good * 10, timeout=0.02)
            others = [served.images(data) for data in good[3:]]
            await asyncio.sleep(0.005)
            leaver.cancel()
            results = (await mixed).results
            assert [result.WhichOneof("outcome") for result in results] == [
                "embedding", "error", "error", "error", "embedding", "embedding", "embedding", "embedding"
            ]  # fmt: skip
            got = [results[place] for place in (0, 4, 7)] + [(await other).results[0] for other in others]
            for result, wanted in zip(got, alone, strict=True):
                assert np.array(result.embedding.values) @ wanted >= 0.99999
            with pytest.raises(aio.AioRpcError) as caught:
                await late
            assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


@KILLS
@pytest.mark.parametrize("thread", ["texts", "images", "decode"])
async def test_a_dead_worker_shows_within_a_second(tmp_path: Path, thread: str) -> None:
    async with serving(tmp_path) as served:
        await served.images(gallery()[0].data)
        assert await served.health() == "SERVING"
        kill_thread(thread)
        calls = [served.texts(f"第{number}个", timeout=5) for number in range(4)]
        calls += [served.images(gallery()[1].data, timeout=1) for _ in range(4)]
        for call in calls:  # wakes the thread, so that it ends
            call.add_done_callback(lambda _: None)
        killed = time.monotonic()
        while await served.health() == "SERVING":
            assert time.monotonic() - killed < 1
            await asyncio.sleep(0.02)
        await asyncio.gather(*calls, return_exceptions=True)


async def test_overload_is_refused_quickly_and_with_advice(tmp_path: Path) -> None:
    async with serving(
        tmp_path, text_cache=0, max_queue_texts=8, max_texts=8, max_queue_images=4, max_images=4
    ) as served:
        calls = [served.texts("今天天气很好", str(number)) for number in range(50)]
        calls += [served.images(gallery()[number].data, gallery()[number + 1].data) for number in range(20)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [refusal(outcome) for outcome in outcomes if isinstance(outcome, aio.AioRpcError)]
        assert 0 < len(refused) < len(calls)
        for each in refused:
            assert (each.code, each.reason, each.retry) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED", True)
        pushbacks = [
            dict(outcome.trailing_metadata() or ())["grpc-retry-pushback-ms"]
            for outcome in outcomes
            if isinstance(outcome, aio.AioRpcError)
        ]
        assert all(50 <= int(pushback) <= 5000 for pushback in pushbacks)
        assert (await served.texts("又好了", timeout=5)).results


async def test_an_import_does_not_starve_texts_nor_texts_an_import(tmp_path: Path) -> None:
    """Each tower has its own queue and worker. The operating system's scheduler shares the cores."""
    images = [image.data for image in gallery()[:64]]
    async with serving(tmp_path, text_cache=0) as served:
        stop = False

        async def import_on() -> int:
            count = 0
            while not stop:
                count += len((await served.images(*images)).results)
            return count

        async def ask_on() -> int:
            count = 0
            while not stop:
                count += len((await served.texts(*(f"第{count + number}张照片" for number in range(64)))).results)
            return count

        imports = [asyncio.create_task(import_on()) for _ in range(2)]
        slowest = 0.0
        for number in range(30):
            started = time.monotonic()
            await served.texts(f"一只{number}岁的小狗")
            slowest = max(slowest, time.monotonic() - started)
        crowd = [asyncio.create_task(ask_on()) for _ in range(2)]
        await asyncio.sleep(2)
        stop = True
        imported, asked = [sum(await asyncio.gather(*tasks)) for tasks in (imports, crowd)]
        assert slowest < 1
        assert imported > 64
        assert asked > 64
