"""Measures how near an engine's vectors are to cn_clip's own, on built-in inputs.

The loss by a reduced precision depends on the checkpoint. Most lose almost nothing, but if a normalization amplifies
rounding, the order of results changes. So the loss is measured for each checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import structlog

from protos import types_pb2
from services.encoder.engine import Engine, Ids, Pixels, Vectors
from services.encoder.texts import padded, tokenize_text

log = structlog.get_logger()

# `auto` chooses a precision only if each cosine is at least this.
MIN_COSINE = 0.999
# Of 3 to 52 tokens.
TEXTS = (
    "猫",
    "红色的苹果",
    "一个男孩在泳池里滑滑梯",
    "A dog runs along the beach at sunset",
    "2008年，北京奥运会开幕式上的焰火表演！",
    "下雨天打着“黑伞”的女人，旁边有一只湿透的小狗",
    "a red double-decker bus in front of a tall building, 街道上有很多行人和自行车",
    "山谷里的清晨，阳光穿过薄雾照在木屋的屋顶上，远处的雪山倒映在平静的湖面，湖边有三个露营的人正在生火做早饭",
)
# Per image: the octaves of its noise, coarsest first, and its contrast.
_NOISES = ((1, 8, 1.0), (1, 4, 1.0), (3, 8, 1.0), (1, 8, 0.2), (5, 8, 1.0), (1, 2, 0.6))


@dataclass(frozen=True)
class Agreement:
    """Least and mean cosine similarity of vectors to their references."""

    least: float
    mean: float

    @classmethod
    def of(cls, vectors: Vectors, reference: Vectors) -> Agreement:
        """Compare two arrays [n, dim] of unit vectors. The result is NaN if any value is not a number."""
        cosines = np.minimum((vectors.astype(np.float64) * reference).sum(axis=1), 1.0)
        return cls(float(cosines.min()), float(cosines.mean()))

    def to_message(self) -> types_pb2.CosineAgreement:
        return types_pb2.CosineAgreement(least_cosine=self.least, mean_cosine=self.mean)


@dataclass(frozen=True)
class Fidelity:
    """The fidelity of texts and images of one engine in one precision."""

    texts: Agreement
    images: Agreement

    @property
    def suffices(self) -> bool:
        """Whether the order of results is kept, except for near ties. False if a vector is not a number."""
        return self.texts.least >= MIN_COSINE and self.images.least >= MIN_COSINE

    def figures(self) -> dict[str, float]:
        """The figures as fields of a log line."""
        return {
            f"{name}_{kind}_cosine": round(getattr(agreement, kind), 6)
            for name, agreement in (("texts", self.texts), ("images", self.images))
            for kind in ("least", "mean")
        }

    def to_message(self) -> types_pb2.ModelFidelity:
        return types_pb2.ModelFidelity(texts=self.texts.to_message(), images=self.images.to_message())


@dataclass(frozen=True)
class Reference:
    """cn_clip's own unit vectors [n, dim] of the built-in texts and images, computed by its module in fp32."""

    texts: Vectors
    images: Vectors


@cache
def built_in_texts() -> tuple[Ids, ...]:
    """Token ids, each [1, length], padded like a text that is encoded alone."""
    return tuple(padded([tokenize_text(text, max_chars=1000, field="text").ids]) for text in TEXTS)


def built_in_images(resolution: int) -> Pixels:
    """Images [n, 3, resolution, resolution] of noise at several scales, similar to photographs."""
    rng = np.random.default_rng(0)
    return np.stack([_noise(rng, resolution, first, last, contrast) for first, last, contrast in _NOISES])


def _noise(rng: np.random.Generator, side: int, first: int, last: int, contrast: float) -> npt.NDArray[np.uint8]:
    """Noise [3, side, side]: a sum of octaves, each with twice the cells and half the strength of the previous one."""
    total = np.zeros((3, side, side))
    for octave in range(first, last + 1):
        cells = min(2**octave, side)
        places = np.arange(side) * cells // side
        total += rng.uniform(-1, 1, (3, cells, cells))[:, places][:, :, places] / 2 ** (octave - first)
    return np.clip(127.5 + 100 * contrast * total, 0, 255).astype(np.uint8)


def measure(engine: Engine, resolution: int, reference: Reference) -> Fidelity:
    """Compute the built-in inputs with `engine`, texts one by one and images in one batch."""
    texts = np.concatenate([engine.encode_texts(ids) for ids in built_in_texts()])
    images = engine.encode_images(built_in_images(resolution))
    return Fidelity(Agreement.of(texts, reference.texts), Agreement.of(images, reference.images))


def first_faithful(
    precisions: Sequence[str], make: Callable[[str], Engine], judge: Callable[[Engine], Fidelity]
) -> tuple[Engine, Fidelity]:
    """The engine in the first of `precisions` with sufficient fidelity. The last one is taken without a check."""
    for precision in precisions:
        engine = make(precision)
        fidelity = judge(engine)
        if fidelity.suffices:
            break
        log.warning("precision changes vectors", precision=precision, limit=MIN_COSINE, **fidelity.figures())
    return engine, fidelity
