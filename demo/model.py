"""The demo model: cn_clip's own CLIP class in a small configuration, and its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from services.encoder.cn_clip_import import CLIP, tokenize

CONFIG = {
    "embed_dim": 256,
    "image_resolution": 64,
    "vision_layers": [2, 2, 2, 2],
    "vision_width": 24,
    "vision_patch_size": None,
    "vocab_size": 21128,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_hidden_size": 128,
    "text_initializer_range": 0.02,
    "text_intermediate_size": 512,
    "text_max_position_embeddings": 64,
    "text_num_attention_heads": 4,
    "text_num_hidden_layers": 3,
    "text_type_vocab_size": 2,
}


def new_model() -> Any:
    return CLIP(**CONFIG).to(memory_format=torch.channels_last)


def load(folder: Path) -> Any:
    """The model of a checkpoint that `save` wrote."""
    model = new_model()
    state = torch.load(folder / "model.pt")["state_dict"]
    model.load_state_dict({name.removeprefix("module."): value.float() for name, value in state.items()})
    return model


def save(model: nn.Module, folder: Path, figures: dict[str, object]) -> None:
    """An ordinary cn_clip checkpoint (its `module.` names, fp16) with its configuration beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"module.{name}": value.half() if value.dtype.is_floating_point else value
        for name, value in model.state_dict().items()
    }
    torch.save({"epoch": 0, "name": "wentu-demo", "state_dict": state}, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps({"name": "demo", **CONFIG}, indent=2) + "\n")
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def trimmed_tokens(texts: list[str]) -> Tensor:
    tokens: Tensor = tokenize(texts)
    return tokens[:, : int(tokens.ne(0).sum(1).max())]


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups: matrices have weight decay, vectors and scalars have none."""
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def update_average(average: Iterable[Tensor], new: Iterable[Tensor], step: int) -> None:
    """Update the exponential moving averages in place. The first updates move them faster."""
    decay = min(0.998, (1 + step) / (10 + step))
    for kept, value in zip(average, new, strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(value, 1 - decay)
        else:
            kept.copy_(value)
