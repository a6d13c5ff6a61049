"""The OpenVINO engine: CPUs."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import structlog

from services.encoder.activations import unfused
from services.encoder.checkpoints import Checkpoint
from services.encoder.conversion import towers
from services.encoder.engine import Ids, Pixels, Vectors, unit
from services.encoder.errors import ModelError

log = structlog.get_logger()

_TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16, "f16": ov.Type.f16}
_CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
# bf16 makes vectors slightly less exact. It is used only if it is faster by at least this factor.
MIN_GAIN = 1.15
_TRIALS = 20


class OpenVinoEngine:
    """Both towers, for any batch size and text length, on all threads. The operating system shares the cores."""

    name = "openvino"
    device = "cpu"
    # Larger batches are hardly faster on a CPU, and delay later requests (bench/RESULTS.md).
    text_batch = 32
    image_batch = 8

    def __init__(self, checkpoint: Checkpoint, precision: str, threads: int, cache: Path) -> None:
        """`precision`: f32, bf16 or f16. `cache`: the folder of converted towers.

        Raises ModelError if the processor has no instructions for the precision. OpenVINO would emulate it: slower than
        f32, and with vectors that depend on the other items of the batch.
        """
        core = ov.Core()
        if not can_compute(core, precision):
            raise ModelError(f"precision {precision}: this processor does not compute in it; take auto or f32")
        texts, images, self.logit_scale = towers(core, checkpoint, cache)
        self.precision = precision
        if precision == "f32":
            texts, images = unfused(texts), unfused(images)
        self._texts = _compiled(core, texts, precision, threads)
        self._images = _compiled(core, images, precision, threads)

    def encode_texts(self, ids: Ids) -> Vectors:
        return unit(self._texts.infer([ids])[0])

    def encode_images(self, pixels: Pixels) -> Vectors:
        return unit(self._images.infer([np.ascontiguousarray(pixels)])[0])


def can_compute(core: ov.Core, precision: str) -> bool:
    """Whether the processor has instructions for it."""
    return _CAPABILITIES[precision] in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def fastest_precisions(threads: int) -> tuple[str, ...]:
    """bf16 before f32 if matrix products are measured to be clearly faster in bf16 on this processor, else f32 alone.

    The processor's flags do not decide: with AMX bf16 is several times faster, with AVX512-BF16 alone it can be slower.
    The models spend most of their time in matrix products.
    """
    core = ov.Core()
    if not can_compute(core, "bf16"):
        return ("f32",)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((256, 1024), dtype=np.float32)
    parameter = ops.parameter([256, 1024], ov.Type.f32)
    product = ops.matmul(parameter, ops.constant(rng.standard_normal((1024, 1024), dtype=np.float32)), False, False)
    model = ov.Model([product], [parameter])
    requests = {precision: _compiled(core, model, precision, threads) for precision in ("f32", "bf16")}
    seconds = dict.fromkeys(requests, math.inf)
    for _ in range(_TRIALS):
        for precision, request in requests.items():
            started = time.perf_counter()
            request.infer([rows])
            seconds[precision] = min(seconds[precision], time.perf_counter() - started)
    gain = seconds["f32"] / seconds["bf16"]
    log.info("precision", bf16_gain=round(gain, 2))
    return ("bf16", "f32") if gain >= MIN_GAIN else ("f32",)


def _compiled(core: ov.Core, model: ov.Model, precision: str, threads: int) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Two towers pinned to the same cores would wait for each other.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(model, "CPU", options).create_infer_request()
