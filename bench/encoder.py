"""make bench-encoder: the encoder's server beside cn_clip's own loop and beside the bare engine, in one run.

Rounds of both sides take turns, so that a machine that slows down slows both. The weights are random: they change the
results, not the amount of work.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from grpc import aio

from bench.encoder_flops import flops, matmul_rate
from bench.encoder_reference import (
    bare_images,
    bare_text,
    bare_text_batches,
    eager_images,
    eager_text,
    seconds_of,
    tokens,
)
from bench.inputs import SENTENCES, photographs
from bench.load import arrivals, callers
from bench.report import Report
from bench.serving import Serving, serving
from protos import encoder_pb2 as pb
from protos import encoder_pb2_grpc
from services.encoder.checkpoints import NAMED, Checkpoint, find_checkpoint
from services.encoder.engine import Engine
from services.encoder.engines import make_engine
from services.encoder.module import load_module
from services.encoder.settings import EncoderSettings
from services.encoder.texts import padded
from tests.support.checkpoints import save_random

ROUNDS = 7
EAGER_BATCH = 32
# Between the sides: the threads of the one that had its turn spin for a while before they sleep.
REST_SECONDS = 0.5
IMAGES = 64
LONGEST_OF_MOST = SENTENCES[13]  # 16 tokens
_SERVICE = "/wentu.v1.EncoderService/"


@dataclass
class Bench:
    """A model, its server, and the same engine in this process."""

    report: Report
    checkpoint: Checkpoint
    engine: Engine
    module: Any
    server: Serving
    channel: aio.Channel
    stub: Any
    settings: EncoderSettings
    images: list[bytes]

    def raw(self, method: str) -> Any:
        """A method that sends and receives raw bytes: callers that parse nothing leave the cores to the server."""
        return self.channel.unary_unary(_SERVICE + method)

    def text_requests(self) -> list[bytes]:
        return [pb.EncodeTextsRequest(texts=[text]).SerializeToString() for text in SENTENCES]

    def image_requests(self) -> list[bytes]:
        return [pb.EncodeImagesRequest(images=[data]).SerializeToString() for data in self.images]


def milliseconds(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


async def lone_text(bench: Bench) -> None:
    """One caller, one text per call."""
    bare, paced, served, eager, empty = [], [], [], [], []
    for _ in range(ROUNDS):
        await asyncio.sleep(REST_SECONDS)
        bare += [seconds_of(lambda text=text: bare_text(bench.engine, text)) for text in SENTENCES]  # type: ignore[misc]
        await asyncio.sleep(REST_SECONDS)
        for _ in SENTENCES:
            started = time.perf_counter()
            await bench.stub.GetModel(pb.GetModelRequest())
            empty.append(time.perf_counter() - started)
        for text in SENTENCES:  # what the engine takes where others use the caches in between, as between two calls
            await asyncio.sleep(empty[-1])
            paced.append(seconds_of(lambda text=text: bare_text(bench.engine, text)))  # type: ignore[misc]
        await asyncio.sleep(REST_SECONDS)
        for text in SENTENCES:
            started = time.perf_counter()
            await bench.stub.EncodeTexts(pb.EncodeTextsRequest(texts=[text]))
            served.append(time.perf_counter() - started)
        eager += [seconds_of(lambda text=text: eager_text(bench.module, text)) for text in SENTENCES[::4]]  # type: ignore[misc]
    times = milliseconds(eager) / milliseconds(served)
    size = len(SENTENCES)
    over = statistics.median(
        milliseconds(served[start : start + size]) - milliseconds(bare[start : start + size])
        for start in range(0, len(bare), size)
    )
    bench.report.row(
        "1 a lone text, p50",
        f"{milliseconds(served):.2f} ms",
        f"bare engine {milliseconds(bare):.2f} ms",
        f"+{over:.2f} ms",
        "+1.25 ms",
        served_ms=milliseconds(served),
        bare_ms=milliseconds(bare),
    )
    bench.report.row("1 a call that computes nothing, p50", f"{milliseconds(empty):.2f} ms")
    bench.report.row("1 the bare engine with such pauses, p50", f"{milliseconds(paced):.2f} ms")
    bench.report.row(
        "1 a lone text, p50",
        f"{milliseconds(served):.2f} ms",
        f"cn_clip eager f32, 52 tokens {milliseconds(eager):.2f} ms",
        f"{times:.2f} x",
        "4 x",
        eager_ms=milliseconds(eager),
    )


async def images(bench: Bench, seconds: float) -> None:
    """8 callers, one JPEG per call."""
    side, call, requests = bench.checkpoint.image_resolution, bench.raw("EncodeImages"), bench.image_requests()
    bare, served, eager = [], [], []
    for _ in range(3):
        taken = seconds_of(lambda: bare_images(bench.engine, bench.images, side, bench.settings))
        bare.append(len(bench.images) / taken)
        served.append((await callers(8, seconds, call, requests)).rate)
        taken = seconds_of(lambda: eager_images(bench.module, bench.images[:EAGER_BATCH], side))
        eager.append(EAGER_BATCH / taken)
    rate, of_bare, of_eager = (statistics.median(each) for each in (served, bare, eager))
    bench.report.row(
        "2 images, 8 callers",
        f"{rate:.1f}/s",
        f"bare loop {of_bare:.1f}/s",
        f"{rate / of_bare:.0%}",
        "90 %",
        served=served,
        bare=bare,
    )
    bench.report.row(
        "2 images, 8 callers",
        f"{rate:.1f}/s",
        f"cn_clip's loop, batch {EAGER_BATCH} {of_eager:.1f}/s",
        f"{rate / of_eager:.2f} x",
        "5 x",
        eager=eager,
    )


async def crowd(bench: Bench, seconds: float, what: str, sentences: Sequence[str]) -> None:
    """64 callers, one text per call."""
    many, call = list(sentences) * (768 // len(sentences)), bench.raw("EncodeTexts")
    requests = [pb.EncodeTextsRequest(texts=[text]).SerializeToString() for text in sentences]
    full = padded([tokens(LONGEST_OF_MOST)] * bench.engine.text_batch)
    bare, batches, outcomes, own, its = [], [], [], 0.0, 0.0
    for _ in range(ROUNDS):
        await asyncio.sleep(REST_SECONDS)
        bare.append(len(many) / seconds_of(lambda: bare_text_batches(bench.engine, many)))
        batches.append(seconds_of(lambda: bench.engine.encode_texts(full)))
        await asyncio.sleep(REST_SECONDS)
        before, mine = bench.server.cpu_seconds, _own_cpu_seconds()
        outcomes.append(await callers(64, seconds, call, requests))
        own, its = own + _own_cpu_seconds() - mine, its + bench.server.cpu_seconds - before
    rate, of_bare = statistics.median(each.rate for each in outcomes), statistics.median(bare)
    p99 = statistics.median(each.percentile(99) for each in outcomes)
    batch = milliseconds(batches)
    bench.report.row(
        f"3 {what}, 64 callers",
        f"{rate:.0f}/s",
        f"bare batches {of_bare:.0f}/s",
        f"{rate / of_bare:.0%}",
        "85 %",
        served=[each.rate for each in outcomes],
        bare=bare,
        callers_share_of_processor_time=own / (own + its),
    )
    bench.report.row(
        f"3 {what}, p99",
        f"{p99:.0f} ms",
        f"a batch of {bench.engine.text_batch}: {batch:.0f} ms",
        f"{p99 / batch:.1f} batches",
        "3",
    )


def _own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def overload(bench: Bench, what: str, seconds: float) -> None:
    """Twice the load that the server can answer, from callers that wait at most 2 s; then a normal load again."""
    call = bench.raw("EncodeTexts" if what == "texts" else "EncodeImages")
    requests = bench.text_requests() if what == "texts" else bench.image_requests()
    before = await callers(64, min(10, seconds), call, requests)
    memory = [bench.server.rss_mib]

    async def sample() -> None:
        while True:
            await asyncio.sleep(1)
            memory.append(bench.server.rss_mib)

    sampling = asyncio.create_task(sample())
    under = await arrivals(2 * before.rate, seconds, lambda request: call(request, timeout=2), requests)
    sampling.cancel()
    first = await callers(64, 1, call, requests)
    after = await callers(64, min(10, seconds), call, requests)
    capacity = (before.rate + after.rate) / 2
    refused = {code: len(times) for code, times in under.refusals.items()}
    times = np.array([each for code in under.refusals.values() for each in code]) * 1000
    quick = float((times <= 10).mean()) if len(times) else 1.0
    bench.report.row(
        f"4 {what}, offered {2 * before.rate:.0f}/s for {seconds:.0f} s: goodput",
        f"{under.rate:.1f}/s",
        f"capacity {capacity:.1f}/s",
        f"{under.rate / capacity:.0%}",
        "95 %",
        capacity_before=before.rate,
        capacity_after=after.rate,
    )
    bench.report.row(
        f"4 {what}: refusals",
        ", ".join(f"{count} {code}" for code, count in refused.items()),
        f"p50 {np.percentile(times, 50):.1f}, p99 {np.percentile(times, 99):.1f}, most {times.max():.1f} ms",
        f"{quick:.2%} within 10 ms",
        "all UNAVAILABLE, 10 ms",
        refused=refused,
    )
    third = max(1, len(memory) // 3)
    bench.report.row(
        f"4 {what}: memory (RSS)",
        f"{max(memory[-third:]):.0f} MiB at the end",
        f"{max(memory[:third]):.0f} MiB at the beginning",
        f"{max(memory[-third:]) / max(memory[:third]):.3f}",
        "flat",
        rss_mib=memory,
    )
    bench.report.row(
        f"4 {what}: the first second after", f"{first.rate:.1f}/s", f"capacity {capacity:.1f}/s",
        f"{first.rate / capacity:.0%}", "full rate",
    )  # fmt: skip


async def neighbours(bench: Bench) -> None:
    """Compare the vectors of inputs that are sent alone with those of a full batch."""
    alone = [(await bench.stub.EncodeTexts(pb.EncodeTextsRequest(texts=[text]))).results[0] for text in SENTENCES]
    together = (await bench.stub.EncodeTexts(pb.EncodeTextsRequest(texts=[*SENTENCES, *SENTENCES]))).results
    texts = _least_cosine(alone, together)
    single = [
        (await bench.stub.EncodeImages(pb.EncodeImagesRequest(images=[data]))).results[0] for data in bench.images[:8]
    ]
    both = (await bench.stub.EncodeImages(pb.EncodeImagesRequest(images=bench.images[:24]))).results
    images = _least_cosine(single, both)
    bench.report.row(
        f"7 alone and batched, {bench.engine.name} {bench.engine.precision}",
        f"texts {texts:.7f}, images {images:.7f}", "least cosine", "", "0.99999", texts=texts, images=images,
    )  # fmt: skip


def _least_cosine(one: Any, two: Any) -> float:
    rows = [np.array([each.embedding.values for each in results][: len(one)]) for results in (one, two)]
    return float((rows[0] * rows[1]).sum(axis=1).min())


async def device(bench: Bench) -> None:
    """The engine's rate as a share of the device's rate of plain matrix products in the same precision."""
    size = bench.engine.image_batch
    side = bench.checkpoint.image_resolution
    pixels = np.zeros((size, 3, side, side), dtype=np.uint8)
    ids = padded([tokens(LONGEST_OF_MOST)] * bench.engine.text_batch)
    peak = matmul_rate(bench.engine)
    for tower, inputs, run in (
        ("images", pixels, bench.engine.encode_images),
        ("texts", ids, bench.engine.encode_texts),
    ):
        work = flops(bench.module, tower, inputs)
        best = min(seconds_of(lambda run=run, inputs=inputs: run(inputs)) for _ in range(ROUNDS))  # type: ignore[misc]
        bench.report.row(
            f"8 bare engine, batches of {len(inputs)} {tower}",
            f"{len(inputs) / best:.1f}/s, {work / best / 1e9:.0f} GFLOP/s",
            f"matrix products {peak / 1e9:.0f} GFLOP/s",
            f"{work / best / peak:.0%}",
            "",
            flops_an_item=work / len(inputs),
        )


async def measure(report: Report, name: str, options: argparse.Namespace, folder: Path) -> None:
    """Run every measurement of one model."""
    path = save_random(folder, name)
    flags = ["--model", str(path), "--architecture", name, "--text-cache", "0", "--compiled-cache", str(folder)]
    flags += ["--device", options.device, "--precision", options.precision]
    settings = EncoderSettings(
        model=str(path), architecture=name, compiled_cache=folder, device=options.device, precision=options.precision
    )
    checkpoint = find_checkpoint(str(path), architecture=name, cache=folder, hub="huggingface")
    with serving("services.encoder", flags, folder) as cold:
        first = cold.start_seconds
    with serving("services.encoder", flags, folder) as server:
        async with aio.insecure_channel(server.address) as channel:
            report.row(
                f"**{name}** start", f"{server.start_seconds:.1f} s", f"the first time {first:.1f} s",
                memory_mib=server.rss_mib,
            )  # fmt: skip
            bench = Bench(
                report=report,
                checkpoint=checkpoint,
                engine=make_engine(checkpoint, settings)[0],
                module=load_module(checkpoint),
                server=server,
                channel=channel,
                stub=encoder_pb2_grpc.EncoderServiceStub(channel),
                settings=settings,
                images=photographs(IMAGES),
            )
            report.row("engine", f"{bench.engine.name} {bench.engine.device} {bench.engine.precision}")
            for _ in range(2):  # run every text length and image batch once before measuring
                bare_text_batches(bench.engine, SENTENCES)
                bare_images(bench.engine, bench.images, checkpoint.image_resolution, settings)
                await callers(64, 1, bench.raw("EncodeTexts"), bench.text_requests())
                await callers(8, 1, bench.raw("EncodeImages"), bench.image_requests())
            gc.collect()
            gc.freeze()  # pauses of the callers' garbage collector must not count as the server's
            await lone_text(bench)
            await images(bench, options.seconds)
            await crowd(bench, options.seconds, "texts of one length", [LONGEST_OF_MOST])
            await crowd(bench, options.seconds, "texts of 3 to 24 tokens", SENTENCES)
            for what in options.overload:
                await overload(bench, what, options.overload_seconds)
            await neighbours(bench)
            await device(bench)
            report.row("memory of the server (RSS)", f"{server.rss_mib:.0f} MiB", f"most {server.peak_rss_mib:.0f} MiB")
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["RN50", "ViT-B-16"], choices=list(NAMED))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round of callers")
    parser.add_argument("--overload", nargs="*", default=["texts", "images"])
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report("bench-encoder", images=f"{IMAGES} JPEGs of 500 x 375", texts=f"{len(SENTENCES)} sentences")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(report, name, options, Path(folder)))
    report.write(options.json)


if __name__ == "__main__":
    main()
