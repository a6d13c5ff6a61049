"""How well the demo model finds: each concept by its name, and the development queries in the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.model import trimmed_tokens
from demo.queries import development_queries, hit_rate

PART = 128


@torch.no_grad()
def encode_texts(model: Any, texts: Sequence[str]) -> Tensor:
    """float [n, dim], unit length."""
    model.eval()
    parts = [trimmed_tokens(list(texts[start : start + PART])) for start in range(0, len(texts), PART)]
    return F.normalize(torch.cat([model.encode_text(part) for part in parts]), dim=-1)


def recall(names: Tensor, images: Tensor, exists: Tensor) -> dict[str, float]:
    """Text-to-image R@1, R@5, R@10 in per cent: each concept's name against the image of every concept that exists.

    `names`: float [concepts, dim], unit length; `images`: float [concepts, dim]; `exists`: bool [concepts].
    """
    scores = names[exists] @ F.normalize(images[exists], dim=-1).T
    ranks = (scores > scores.diag()[:, None]).sum(1)
    return {f"R@{k}": round((ranks < k).float().mean().item() * 100, 1) for k in (1, 5, 10)}


def hits(model: Any, image_ids: Sequence[int], images: Tensor) -> dict[str, float]:
    """hit@1 and hit@5 of the development queries in per cent. `images`: float [n, dim], of `image_ids`."""
    texts = encode_texts(model, [query.text for query in development_queries()])
    nearest = (texts @ F.normalize(images, dim=-1).T).topk(5, dim=1).indices
    found = [[image_ids[row] for row in rows] for rows in nearest.tolist()]
    return {f"hit@{k}": round(hit_rate(found, k), 1) for k in (1, 5)}
