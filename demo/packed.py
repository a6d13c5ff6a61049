"""The text tower over phrases without padding. It gives the same numbers as cn_clip for two thirds of the work.

Attention runs per group of phrases of one length, so that no token is padding and no mask is needed. All other layers
see the tokens of all phrases as one matrix. The last layer computes only the first token, since only that is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def by_length(tokens: Tensor) -> list[Tensor]:
    """Token ids [n, longest], padded with zeros and with the shortest first, to one [m, length] for each length."""
    lengths = tokens.ne(0).sum(1)
    return [tokens[lengths == length, :length] for length in sorted(set(lengths.tolist()))]


def _attend(queries: list[Tensor], keys: list[Tensor], values: list[Tensor], heads: int) -> Tensor:
    """Attention within each phrase. Each tensor is [phrases, tokens, width]; returns [all queries, width]."""

    def split(part: Tensor) -> Tensor:
        return part.view(*part.shape[:2], heads, -1).transpose(1, 2)

    found = [
        F.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).flatten(2).flatten(0, 1)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(found)


def _joined(layers: tuple[nn.Linear, ...], x: Tensor) -> tuple[Tensor, ...]:
    """Several linear layers with one input, computed as one matrix product."""
    weight, bias = torch.cat([each.weight for each in layers]), torch.cat([each.bias for each in layers])
    return F.linear(x, weight, bias).chunk(len(layers), dim=1)


def encode_text(model: Any, groups: list[Tensor]) -> Tensor:
    """`model.encode_text` of phrases in groups of one length each. Float [n, dim]."""
    shapes = [tuple(group.shape) for group in groups]
    positions = torch.cat([torch.arange(length).repeat(count) for count, length in shapes])
    first = positions == 0
    embeddings = model.bert.embeddings
    x = embeddings.LayerNorm(
        embeddings.word_embeddings(torch.cat([group.flatten() for group in groups]))
        + embeddings.position_embeddings(positions)
        + embeddings.token_type_embeddings.weight[0]
    )

    def by_phrase(rows: Tensor) -> list[Tensor]:
        parts = torch.split(rows, [count * length for count, length in shapes])
        return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]

    layers = model.bert.encoder.layer
    for layer in layers:
        attention = layer.attention.self
        if layer is layers[-1]:
            key, value = _joined((attention.key, attention.value), x)
            x = x[first]
            queries = [part[:, None] for part in torch.split(attention.query(x), [count for count, _ in shapes])]
        else:
            query, key, value = _joined((attention.query, attention.key, attention.value), x)
            queries = by_phrase(query)
        context = _attend(queries, by_phrase(key), by_phrase(value), attention.num_attention_heads)
        output = layer.attention.output
        x = output.LayerNorm(output.dense(context) + x)
        x = layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(x))) + x)
    vectors: Tensor = x @ model.text_projection
    return vectors
