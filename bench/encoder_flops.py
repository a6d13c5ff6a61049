"""How many operations a model needs, and how many per second the device reaches at most."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from services.encoder.engine import Engine
from services.encoder.towers import ImageTower, TextTower

SIDE = 2048
TRIALS = 10


def flops(module: Any, tower: str, inputs: npt.NDArray[Any]) -> float:
    """Floating-point operations of one pass over `inputs`, as PyTorch counts them: products and convolutions."""
    run = (TextTower if tower == "texts" else ImageTower)(module)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        run(torch.from_numpy(inputs[:1]))
    return float(counter.get_total_flops()) * len(inputs)


def matmul_rate(engine: Engine) -> float:
    """Floating-point operations per second of large matrix products by PyTorch on the engine's device, at best."""
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[engine.precision]
    one, two = (torch.from_numpy(np.ones((SIDE, SIDE), np.float32)).to(engine.device, kind) for _ in range(2))
    best = float("inf")
    for _ in range(TRIALS):
        started = time.perf_counter()
        product = one @ two
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best
