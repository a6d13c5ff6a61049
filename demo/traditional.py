"""Simplified and traditional characters, by OpenCC's dictionaries."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from opencc import OpenCC


@cache
def _converter(name: str) -> OpenCC:
    return OpenCC(name)


def simplified(text: str) -> str:
    converted: str = _converter("t2s").convert(text)
    return converted


def traditional(text: str) -> str:
    converted: str = _converter("s2t").convert(text)
    return converted


@torch.no_grad()
def start_from_simplified(model: Any) -> None:
    """Copy the embedding of each simplified character to its traditional forms.

    A model that was trained on simplified names alone knows nothing of the traditional forms: their embeddings are
    still the random numbers that they began with.
    """
    vocabulary = model.tokenizer.vocab
    weight = model.bert.embeddings.word_embeddings.weight
    for character, row in vocabulary.items():
        if len(character) == 1 and "\u4e00" <= character <= "\u9fff":
            form = simplified(character)
            if form != character and form in vocabulary:
                weight[row] = weight[vocabulary[form]]
