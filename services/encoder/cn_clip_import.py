"""Imports cn_clip's modules, even if torchvision's compiled operators do not fit torch.

cn_clip needs torchvision for one transform. If a CUDA build of torchvision is installed with a CPU build of torch, its
operators cannot load and `import torchvision` fails with "operator torchvision::nms does not exist". cn_clip calls
none of them, so it is enough to declare their schemas. This is done only after that exact error.
"""

from __future__ import annotations

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

from cn_clip.clip.model import CLIP, convert_weights
from cn_clip.clip.modeling_bert import BertSelfAttention
from cn_clip.clip.utils import _MODEL_INFO, _MODELS, image_transform, tokenize
from cn_clip.clip.utils import _download as download

__all__ = [
    "CLIP",
    "_MODELS",
    "_MODEL_INFO",
    "BertSelfAttention",
    "convert_weights",
    "download",
    "image_transform",
    "tokenize",
]
