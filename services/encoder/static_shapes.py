"""Runs a tower on a few batch shapes. Each shape is captured once as a CUDA graph and then replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Tower = Callable[[Tensor], Tensor]
# Takes a tower and its input tensor. Returns a function that runs the tower again and returns its output.
Capture = Callable[[Tower, Tensor], Callable[[], Tensor]]
WARM_UP_RUNS = 3


class StaticShapes:
    """Pads a batch to the next captured shape, and removes the padding rows from the result.

    A row's vector does not depend on the other rows, so the content of the padding does not matter.
    """

    def __init__(
        self, tower: Tower, shapes: Iterable[tuple[int, ...]], kind: torch.dtype, device: str, capture: Capture
    ) -> None:
        self._tower, self._device = tower, device
        self._ready: dict[tuple[int, ...], tuple[Tensor, Callable[[], Tensor]]] = {}
        for shape in sorted(shapes, reverse=True):  # the largest first, since smaller shapes reuse its memory
            inputs = torch.zeros(shape, dtype=kind, device=device)
            self._ready[shape] = (inputs, capture(tower, inputs))

    def __call__(self, batch: Tensor) -> Tensor:
        """Takes a batch [n, ...] on the CPU. Returns vectors [n, dim] on the device. Other shapes run uncaptured."""
        count = batch.shape[0]
        ready = self._ready.get((next_power_of_two(count), *batch.shape[1:]))
        if ready is None:
            return self._tower(batch.to(self._device))
        inputs, run = ready
        inputs[:count].copy_(batch, non_blocking=True)
        return run()[:count]


def next_power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def powers_of_two(limit: int) -> list[int]:
    """Powers of 2 below `limit`, and `limit` itself."""
    return [1 << exponent for exponent in range(limit.bit_length())]


def cuda_graphs(device: str) -> Capture:
    """Captures towers as CUDA graphs. Those of one call share memory, so they must not run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(tower: Tower, inputs: Tensor) -> Callable[[], Tensor]:
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):  # libraries choose their kernels on first use, which cannot be captured
            for _ in range(WARM_UP_RUNS):
                tower(inputs)
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            outputs = tower(inputs)

        def run() -> Tensor:
            graph.replay()
            return outputs

        return run

    return capture
