"""Everyday phrases for the teacher to label: a dictionary's words, and sentence frames filled with them."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from demo.words import CHINESE, ConceptWords

CONCEPT_WORD_WEIGHT = 12.0  # as high as that of a very frequent word
MAX_CHARACTERS = 6
# Per letter of a frame: the parts of speech in jieba's dictionary that fit. Names of persons (nr) fit nowhere.
NOUNS, VERBS, ADJECTIVES = {"n", "nz", "vn", "s", "ns"}, {"v", "vn", "i", "l"}, {"a", "an", "ad", "z"}
OTHERS = {"t", "o", "b", "d", "m", "e", "y", "j", "f"}

# N, M: nouns. V: a verb. A: an adjective. A frame that is listed twice is drawn twice as often.
FRAMES = (Path(__file__).parent / "frames.txt").read_text(encoding="utf-8").split()


@dataclass(frozen=True)
class Word:
    """A word in simplified characters, its part of speech ('' if unknown) and how often it is to be drawn."""

    text: str
    part: str
    weight: float


def _dictionary() -> Iterator[tuple[str, int, str]]:
    """jieba's dictionary (MIT). Only its file is read: importing jieba would build data that is not needed here."""
    spec = importlib.util.find_spec("jieba")
    if spec is None or spec.origin is None:
        raise ImportError("jieba is not installed")
    for line in (Path(spec.origin).parent / "dict.txt").read_text(encoding="utf-8").splitlines():
        word, count, part = line.split(" ")
        yield word, int(count), part


def _pieces(word: str) -> Iterator[str]:
    for length in range(2, len(word) + 1):
        for start in range(len(word) - length + 1):
            yield word[start : start + length]


def dictionary_words(words: Sequence[ConceptWords], count: int) -> list[Word]:
    """All concept words, and `count` words of the dictionary: the most frequent ones, and of
    those that contain a concept word."""
    known = {word for each in words for word in each.chinese}
    parts: dict[str, str] = {}
    others = []
    for text, times, part in _dictionary():
        if text in known:
            parts[text] = part
        elif part in NOUNS | VERBS | ADJECTIVES | OTHERS and CHINESE.fullmatch(text) and len(text) <= MAX_CHARACTERS:
            others.append(Word(text, part, math.log1p(times) ** 2 / 8))
    others.sort(key=lambda word: (-word.weight, word.text))
    holding = [word for word in others if any(piece in known for piece in _pieces(word.text))][: count // 2]
    held = set(holding)
    frequent = [word for word in others if word not in held][: count - len(holding)]
    return [*(Word(text, parts.get(text, ""), CONCEPT_WORD_WEIGHT) for text in sorted(known)), *holding, *frequent]


def reweighted(words: Sequence[Word], confidence: Iterable[float]) -> list[Word]:
    """The weights of words. A word that the teacher assigns with confidence is drawn more often."""
    return [replace(word, weight=word.weight * float(sure) ** 2) for word, sure in zip(words, confidence, strict=True)]


class _Drawer:
    def __init__(self, words: Sequence[Word], parts: set[str]) -> None:
        # A concept word that the dictionary does not have fits any frame: most are nouns.
        chosen = [word for word in words if word.part in parts or (not word.part and parts is NOUNS)]
        self._texts = [word.text for word in chosen]
        self._cumulative = list(itertools.accumulate(word.weight for word in chosen))

    def __call__(self, rng: random.Random) -> str:
        return rng.choices(self._texts, cum_weights=self._cumulative)[0]


def composed(words: Sequence[Word], count: int, rng: random.Random) -> list[str]:
    """`count` different frames filled with words, which are drawn by their weights."""
    nouns, verbs, adjectives = _Drawer(words, NOUNS), _Drawer(words, VERBS), _Drawer(words, ADJECTIVES)
    draw = {"N": nouns, "M": nouns, "V": verbs, "A": adjectives}
    known = {word.text for word in words}
    phrases: dict[str, None] = {}
    while len(phrases) < count:
        phrase = "".join(draw[letter](rng) if letter in draw else letter for letter in rng.choice(FRAMES))
        if phrase not in known:
            phrases[phrase] = None
    return list(phrases)
