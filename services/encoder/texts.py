"""Turns a text into the token ids that the model sees, truncated as in cn_clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.common.errors import InvalidField
from services.encoder.engine import Ids
from services.encoder.tokenizer import Tokenizer

CONTEXT_LENGTH = 52  # cn_clip/clip/utils.py: "all baseline models use 52 as the context length"
# Texts are padded to the next of these.
LENGTH_STEP = 4
# In f32 the texts of a batch may differ by this many tokens: fuller batches for a little more padding.
BATCH_SPAN = 8
LENGTHS = tuple(range(LENGTH_STEP, CONTEXT_LENGTH + 1, LENGTH_STEP))

_TOKENIZER = Tokenizer()
_CLS = _TOKENIZER.vocabulary["[CLS]"]
_SEP = _TOKENIZER.vocabulary["[SEP]"]


@dataclass(frozen=True)
class Tokens:
    """`ids`: [CLS], at most 50 tokens, [SEP]. `count`: as many as there were before the cut, at most 53."""

    ids: tuple[int, ...]
    count: int

    @property
    def truncated(self) -> bool:
        return self.count > len(self.ids)


def tokenize_text(text: str, *, max_chars: int, field: str) -> Tokens:
    """Tokens of one text, equal to those of cn_clip's `_preprocess_text` and `tokenize`, in bounded time.

    Raises InvalidField with the name `field`.
    """
    if len(text) > max_chars:
        raise InvalidField(field, f"has {len(text):,} characters; the limit is {max_chars:,}")
    inner = _TOKENIZER.ids(text, CONTEXT_LENGTH - 1)  # one token more than fits shows that the text is longer
    if not inner:
        raise InvalidField(field, "must hold a word")
    return Tokens((_CLS, *inner[: CONTEXT_LENGTH - 2], _SEP), len(inner) + 2)


def padded_length(ids: Sequence[int]) -> int:
    """The length of LENGTHS that `ids` is padded to."""
    return -(-len(ids) // LENGTH_STEP) * LENGTH_STEP


def batch_key(ids: Sequence[int], *, exact: bool) -> int:
    """Texts of the same key may share a batch.

    `exact`: only those padded to the same length, so that a text's vector does not depend on its neighbours. In bf16
    the padding's length alone moves it by more than 1e-5, in f32 it does not (bench/RESULTS.md).
    """
    return padded_length(ids) if exact else -(-len(ids) // BATCH_SPAN)


def padded(batch: Sequence[Sequence[int]]) -> Ids:
    """ids [n, length], padded with 0 to the length of the longest."""
    rows = np.zeros((len(batch), max(map(padded_length, batch))), dtype=np.int64)
    for row, ids in zip(rows, batch, strict=True):
        row[: len(ids)] = ids
    return rows
