"""Checkpoints in cn_clip's format with random weights, of its own architectures in full size."""

from __future__ import annotations

from pathlib import Path

import torch

from services.encoder.checkpoints import named_config
from services.encoder.cn_clip_import import CLIP, convert_weights


def save_random(folder: Path, name: str) -> Path:
    """Write a checkpoint and return its path. Each name begins with `module.`, as after a training with cn_clip."""
    torch.manual_seed(1)
    module = CLIP(**named_config(name))
    convert_weights(module)
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    path = folder / f"{name}.pt"
    torch.save({"epoch": 1, "name": name, "state_dict": state}, path)
    return path
