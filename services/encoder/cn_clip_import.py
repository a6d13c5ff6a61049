"""All that is used of cn_clip, also where torchvision's compiled operators do not fit torch.

cn_clip needs torchvision for one transform. Where a CUDA build of torchvision stands beside a CPU build of torch, its
operators cannot load and `import torchvision` fails with "operator torchvision::nms does not exist". cn_clip calls
none of them, so declaring their schemas is enough for the import to succeed. It is done only after that very error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_OPERATORS = ("nms", "qnms")

try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    _library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # kept while in use
    for _name in _OPERATORS:
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import cn_clip.clip.utils
from cn_clip.clip import _tokenizer as tokenizer
from cn_clip.clip.model import CLIP, convert_weights
from cn_clip.clip.utils import _MODEL_INFO, image_transform, tokenize
from cn_clip.clip.utils import _download as download

MODEL_CONFIGS = Path(cn_clip.clip.utils.__file__).parent / "model_configs"
# cn_clip's names, each with its structure: 'ViT-B-16@RoBERTa-wwm-ext-base-chinese'.
STRUCTURES: dict[str, str] = {name: info["struct"] for name, info in _MODEL_INFO.items()}

__all__ = [
    "CLIP",
    "MODEL_CONFIGS",
    "STRUCTURES",
    "convert_weights",
    "download",
    "image_transform",
    "tokenize",
    "tokenizer",
]
