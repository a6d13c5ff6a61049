"""What the text tower learns from: four pools of phrases, each phrase with its tokens and its nearest concepts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demo.captions import draw_caption, truth
from demo.concepts import Concept
from demo.phrases import composed, dictionary_words, reweighted
from demo.queries import development_queries
from demo.teacher import KEPT, Labels, Teacher
from demo.traditional import simplified, traditional
from demo.words import ConceptWords
from services.encoder.texts import tokenize_text

CAPTIONS, WORDS, COMPOSED = 40_000, 80_000, 220_000
MAX_TOKENS = 24


@dataclass(frozen=True)
class Pool:
    """Phrases as tokens, with their targets.

    `tokens` and `traditional` uint16 [n, MAX_TOKENS], the phrase in simplified and in traditional characters, padded
    with zeros; `concepts` int16 [n, KEPT] and `shares` float32 [n, KEPT], the target; `weights` float64 [n], how often
    a phrase is drawn.
    """

    tokens: npt.NDArray[np.uint16]
    traditional: npt.NDArray[np.uint16]
    concepts: npt.NDArray[np.int16]
    shares: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float64]

    def save(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Pool:
        with np.load(path) as file:
            return cls(**file)


def _tokens(phrases: Iterable[str]) -> npt.NDArray[np.uint16]:
    rows = [tokenize_text(phrase, max_chars=1000, field="phrase").ids[:MAX_TOKENS] for phrase in phrases]
    tokens = np.zeros((len(rows), MAX_TOKENS), dtype=np.uint16)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    return tokens


def _pool(phrases: Sequence[str], labels: Labels, weights: npt.ArrayLike) -> Pool:
    tokens, other = _tokens(phrases), _tokens(map(traditional, phrases))
    return Pool(tokens, other, labels.concepts, labels.shares, np.asarray(weights, dtype=np.float64))


def _true_labels(words: Sequence[frozenset[str]], concepts: Sequence[Concept]) -> Labels:
    """Even shares for the concepts that have all the words; a confidence of 0 if there are more than `KEPT`."""
    count = len(words)
    found, shares = np.zeros((count, KEPT), dtype=np.int16), np.zeros((count, KEPT), dtype=np.float32)
    for row, each in enumerate(words):
        rows = np.flatnonzero(truth([each], concepts)[0])
        if len(rows) <= KEPT:
            found[row, : len(rows)] = rows
            shares[row, : len(rows)] = 1 / len(rows)
    return Labels(found, shares, shares[:, 0])


def _own_labels(count: int) -> Labels:
    """Each concept's name means that concept alone, although it may be a tag of others."""
    found, shares = np.zeros((count, KEPT), dtype=np.int16), np.zeros((count, KEPT), dtype=np.float32)
    found[:, 0], shares[:, 0] = np.arange(count), 1
    return Labels(found, shares, shares[:, 0])


def _caption_pool(concepts: Sequence[Concept], count: int, rng: random.Random) -> Pool:
    drawn = [draw_caption(rng.choice(concepts), rng) for _ in range(count)]
    captions, words = zip(*drawn, strict=True)
    labels = _true_labels(words, concepts)
    return _pool(captions, labels, labels.confidence > 0)


def make_pools(concepts: Sequence[Concept], words: Sequence[ConceptWords], rng: random.Random) -> dict[str, Pool]:
    """The pools by name: `names`, `captions`, `words`, `composed`. The latter two leave the development queries out."""
    queries = {simplified(query.text) for query in development_queries()}
    names = [concept.name for concept in concepts]
    pools = {
        "names": _pool(names, _own_labels(len(names)), [1.0] * len(names)),
        "captions": _caption_pool(concepts, CAPTIONS, rng),
    }
    teacher = Teacher(words)
    dictionary = [word for word in dictionary_words(words, WORDS) if word.text not in queries]
    labels = teacher.label([word.text for word in dictionary])
    dictionary = reweighted(dictionary, labels.confidence)
    pools["words"] = _pool([word.text for word in dictionary], labels, [word.weight for word in dictionary])
    phrases = [phrase for phrase in composed(dictionary, COMPOSED, rng) if phrase not in queries]
    labels = teacher.label(phrases)
    pools["composed"] = _pool(phrases, labels, labels.confidence**2)
    return pools


def load_pools(cache: Path, concepts: Sequence[Concept], words: Sequence[ConceptWords], seed: int) -> dict[str, Pool]:
    """The pools from `cache`. They are made and stored there first if it is empty."""
    names = ("names", "captions", "words", "composed")
    if not all((cache / f"{name}.npz").exists() for name in names):
        cache.mkdir(parents=True, exist_ok=True)
        for name, pool in make_pools(concepts, words, random.Random(seed)).items():
            pool.save(cache / f"{name}.npz")
    return {name: Pool.load(cache / f"{name}.npz") for name in names}
