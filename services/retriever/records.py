"""What the retriever deals in, free of any store and of the wire."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import PrecisionMismatch
from services.common.fingerprint import Fingerprint

Vector = npt.NDArray[np.float32]
Attributes = Mapping[str, Any]


class Metric(StrEnum):
    """How vectors are compared. The values are kept with each collection: they never change."""

    INNER_PRODUCT = "IP"
    COSINE = "COSINE"
    L2 = "L2"


class Consistency(StrEnum):
    """Which writes a read sees."""

    BOUNDED = "Bounded"
    STRONG = "Strong"
    SESSION = "Session"


@dataclass(frozen=True)
class Index:
    """An index with its build parameters. The names are kept with each collection: they never change."""

    type: str
    parameters: Mapping[str, int] = field(default_factory=dict)


def new_creation_id() -> str:
    """With a capital letter, which no collection's id has."""
    return f"C{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Precision:
    """Of a collection's vectors: f32, bf16 or f16, or empty if nobody said. `strict`: vectors of another are refused.

    `fidelity`: cosines to vectors in f32, as the encoder measured them: least and mean, of texts and of images.
    """

    name: str = ""
    strict: bool = False
    fidelity: dict[str, Any] = field(default_factory=dict)

    def differs(self, other: str) -> bool:
        """Whether vectors are known to be of another precision."""
        return bool(self.name and other) and self.name != other


UNKNOWN = Precision()


@dataclass(frozen=True)
class VectorCollection:
    """A generation of a collection: its settings, kept with the backend's collection of the name `physical`.

    `rebuild` is the next generation, while there is one. All generations have the `creation_id` of the collection: one
    that is deleted and created again has another.
    """

    id: str
    model: Fingerprint
    metric: Metric
    index: Index
    description: str = ""
    create_time: float = field(default_factory=time.time)
    generation: int = 0
    physical: str = ""
    rebuild: VectorCollection | None = None
    creation_id: str = field(default_factory=new_creation_id)
    precision: Precision = UNKNOWN

    @property
    def generations(self) -> tuple[VectorCollection, ...]:
        """The current one, and the next one while there is one."""
        return (self,) if self.rebuild is None else (self, self.rebuild)

    def follows(self, current: VectorCollection) -> bool:
        """Whether this is the generation after `current`."""
        return self.generation == current.generation + 1

    def precedes(self, other: VectorCollection) -> bool:
        """Whether this is an earlier generation than `other`."""
        return self.generation < other.generation

    def checked(self, precision: str) -> VectorCollection:
        """Itself. Raises PrecisionMismatch if it is strict and vectors in `precision` are not like its own."""
        if self.precision.strict and self.precision.differs(precision):
            raise PrecisionMismatch(self.id, self.precision.name, precision)
        return self

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "model": self.model.to_json(),
            "metric": self.metric.value,
            "index": {"type": self.index.type, "parameters": dict(self.index.parameters)},
            "description": self.description,
            "create_time": self.create_time,
            "generation": self.generation,
            "creation_id": self.creation_id,
            "precision": asdict(self.precision),
        }

    @classmethod
    def from_json(cls, collection: str, physical: str, value: Mapping[str, Any]) -> VectorCollection:
        return cls(
            id=collection,
            model=Fingerprint(**value["model"]),
            metric=Metric(value["metric"]),
            index=Index(value["index"]["type"], value["index"]["parameters"]),
            description=value["description"],
            create_time=value["create_time"],
            generation=value.get("generation", 0),
            physical=physical,
            # Those made before there were creation ids were created once.
            creation_id=value.get("creation_id", collection),
            precision=Precision(**value.get("precision", {})),
        )


@dataclass(frozen=True)
class Record:
    """A vector with its key and attributes, and what it was made from: a content and a model, by their checksums."""

    image_id: str
    vector: Vector | None
    attributes: Attributes
    content_sha256: str = ""
    model_sha256: str = ""


@dataclass(frozen=True)
class Hit:
    """`score`: cosine similarity, higher is better."""

    image_id: str
    score: float
    attributes: Attributes
    vector: Vector | None = None

    @property
    def distance(self) -> float:
        """Squared L2 distance of the unit vectors: |a - b|^2 = 2 - 2 a.b where |a| = |b| = 1."""
        return 2.0 - 2.0 * self.score

    @property
    def place(self) -> tuple[float, bytes]:
        """Sorts best first, ties by id. Scores that are equal to six digits are ties: stores round differently."""
        return (-round(self.score, 6), self.image_id.encode())
