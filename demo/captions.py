"""Captions drawn from a concept's name and tags, and which images each caption is true of."""

from __future__ import annotations

import random
from collections.abc import Sequence

from demo.concepts import Concept

TEMPLATES = ("一个{}", "{}的图片", "一张{}的图", "画着{}", "有{}的图案", "这是{}")
JOINS = ("，", " ", "的", "、", "")


def draw_caption(concept: Concept, rng: random.Random, name_share: float = 0.4) -> tuple[str, frozenset[str]]:
    """A caption and its words. The share `name_share` of captions is the name alone."""
    kind = rng.random()
    rest = 1 - name_share
    tags = list(concept.tags)
    rng.shuffle(tags)
    if not tags or kind < name_share:
        words = [concept.name]
    elif kind < name_share + rest * 5 / 12:
        words = [concept.name, *tags[: rng.randint(1, 2)]]
        rng.shuffle(words)
    elif kind < name_share + rest * 9 / 12:
        words = tags[: rng.randint(2, 4)]
    else:
        words = tags[:1]
    text = rng.choice(JOINS).join(words)
    if rng.random() < 0.3:
        text = rng.choice(TEMPLATES).format(text)
    return text, frozenset(words)


def truth(words: Sequence[frozenset[str]], concepts: Sequence[Concept]) -> list[list[bool]]:
    """truth[i][j]: caption i is true of image j, because j's concept has all its words."""
    known = [concept.words for concept in concepts]
    return [[caption <= each for each in known] for caption in words]
