"""From a text to the token ids that the model sees: cn_clip's own tokenizer and cut."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.errors import InvalidField
from services.encoder.cn_clip_import import tokenizer

CONTEXT_LENGTH = 52  # cn_clip/clip/utils.py: "all baseline models use 52 as the context length"
_CLS = tokenizer.vocab["[CLS]"]
_SEP = tokenizer.vocab["[SEP]"]


@dataclass(frozen=True)
class Tokens:
    """`ids`: [CLS], at most 50 tokens, [SEP]. `count`: as many as there were before the cut."""

    ids: list[int]
    count: int

    @property
    def truncated(self) -> bool:
        return self.count > len(self.ids)


def tokenize_text(text: str, *, max_chars: int, field: str) -> Tokens:
    """Tokens of one text, the same as cn_clip's `tokenize` gives. Raises InvalidField, naming `field`."""
    if len(text) > max_chars:
        raise InvalidField(field, f"has {len(text):,} characters; the limit is {max_chars:,}")
    inner = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    if not inner:
        raise InvalidField(field, "must hold a word")
    return Tokens([_CLS, *inner[: CONTEXT_LENGTH - 2], _SEP], len(inner) + 2)
