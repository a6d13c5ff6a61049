"""The torch engine: CUDA, or a CPU."""

from __future__ import annotations

from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.encoder.checkpoints import Checkpoint
from services.encoder.cn_clip_import import BertSelfAttention, convert_weights
from services.encoder.engine import Ids, Pixels, Vectors, unit
from services.encoder.module import load_module, logit_scale
from services.encoder.static_shapes import Capture, StaticShapes, Tower, cuda_graphs, powers_of_two
from services.encoder.texts import LENGTHS
from services.encoder.towers import ImageTower, TextTower

_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchEngine:
    """cn_clip's module with weights in one precision, and PyTorch's attention for texts.

    On CUDA, batches are padded to a few shapes, each captured as a CUDA graph: for small batches the launch of hundreds
    of kernels takes longer than their work. Each tower has its own stream.
    """

    name = "torch"

    def __init__(
        self, checkpoint: Checkpoint, device: str, precision: str, threads: int, capture: Capture | None = None
    ) -> None:
        """`capture` prepares a shape for repeated runs. The default is CUDA graphs on CUDA, and none elsewhere."""
        self.device, self.precision = device, precision
        on_cuda = torch.device(device).type == "cuda"
        self.text_batch, self.image_batch = (256, 64) if on_cuda else (32, 8)
        if not on_cuda:
            torch.set_num_threads(threads)
        module = load_module(checkpoint)
        self.logit_scale = logit_scale(module)
        in_precision(module, _TYPES[precision])
        use_fused_attention(module)
        module.visual.to(memory_format=torch.channels_last)
        self._streams = [torch.cuda.Stream(device) if on_cuda else None for _ in range(2)]  # type: ignore[no-untyped-call]
        side = checkpoint.image_resolution
        text_shapes = [(count, length) for count in powers_of_two(self.text_batch) for length in LENGTHS]
        image_shapes = [(count, 3, side, side) for count in powers_of_two(self.image_batch)]
        self._towers: list[Tower] = []
        for tower, shapes, kind in (
            (TextTower(module), text_shapes, torch.int64),
            (ImageTower(module), image_shapes, torch.uint8),
        ):
            run = _inference(tower.to(device).eval(), device)
            ready = cuda_graphs(device) if on_cuda and capture is None else capture
            self._towers.append(StaticShapes(run, shapes, kind, device, ready) if ready else run)

    def encode_texts(self, ids: Ids) -> Vectors:
        return self._run(0, torch.from_numpy(ids))

    def encode_images(self, pixels: Pixels) -> Vectors:
        return self._run(1, torch.from_numpy(np.ascontiguousarray(pixels)))

    @torch.inference_mode()
    def _run(self, tower: int, batch: Tensor) -> Vectors:
        with torch.cuda.stream(self._streams[tower]):  # has no effect without CUDA
            return unit(self._towers[tower](batch).float().cpu().numpy())


def in_precision(module: Any, kind: torch.dtype) -> None:
    """Convert the weights that cn_clip keeps in fp16 to `kind`. The others stay in fp32."""
    if kind is torch.float32:
        return
    convert_weights(module)
    for parameter in module.parameters():
        if parameter.dtype is torch.float16:
            parameter.data = parameter.data.to(kind)


def use_fused_attention(module: nn.Module) -> None:
    """Compute the text tower's attention by PyTorch's scaled_dot_product_attention instead of separate products."""
    for each in module.modules():
        if isinstance(each, BertSelfAttention):
            each.forward = MethodType(_fused_attention, each)


def _fused_attention(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, head_mask: None = None
) -> tuple[Tensor]:
    """BertSelfAttention.forward of cn_clip/clip/modeling_bert.py, without dropout."""
    query, key, value = (
        self.transpose_for_scores(layer(hidden_states)) for layer in (self.query, self.key, self.value)
    )
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
    return (context.permute(0, 2, 1, 3).flatten(2),)


def _inference(tower: nn.Module, device: str) -> Tower:
    @torch.inference_mode()
    def run(batch: Tensor) -> Tensor:
        vectors: Tensor = tower(batch.to(device))
        return vectors

    return run
