"""Loads a checkpoint into cn_clip's CLIP module. Needs torch, unlike a start from converted towers."""

from __future__ import annotations

import pickle
from typing import Any

import torch

from services.encoder.checkpoints import Checkpoint
from services.encoder.cn_clip_import import CLIP, convert_weights
from services.encoder.errors import ModelError


def load_module(checkpoint: Checkpoint) -> Any:
    """cn_clip's module in evaluation mode and fp32, by cn_clip's own steps (cn_clip/clip/utils.py, create_model).

    cn_clip converts weights to fp16, and back to fp32 for a CPU. The same is done here, so that the numbers are equal.
    Raises ModelError if the file does not fit its configuration.
    """
    state = _read(checkpoint)
    try:
        module = CLIP(**checkpoint.config)
        convert_weights(module)
        prefix = "module."
        names = {name.removeprefix(prefix): value for name, value in state.items() if "bert.pooler" not in name}
        module.load_state_dict(names)
    except (RuntimeError, TypeError, KeyError) as error:
        raise ModelError(f"the checkpoint does not fit its configuration: {error}") from error
    return module.float().eval()


def logit_scale(module: Any) -> float:
    """The factor of cosine similarities (cn_clip/clip/model.py, CLIP.get_similarity)."""
    return float(module.logit_scale.detach().exp())


def _read(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        loaded = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
        state: dict[str, Any] = loaded["state_dict"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{checkpoint.path} is not a checkpoint in cn_clip's format: {error}") from error
    return state
