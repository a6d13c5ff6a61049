"""What the retriever deals in, free of Milvus and of the wire."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.fingerprint import Fingerprint

Vector = npt.NDArray[np.float32]
Attributes = Mapping[str, Any]


class Metric(StrEnum):
    """How Milvus compares; the values are its names."""

    INNER_PRODUCT = "IP"
    COSINE = "COSINE"
    L2 = "L2"


class Consistency(StrEnum):
    """Which writes a read sees; the values are Milvus's names."""

    BOUNDED = "Bounded"
    STRONG = "Strong"
    SESSION = "Session"


@dataclass(frozen=True)
class Index:
    """An index of Milvus with its build parameters, by Milvus's names."""

    type: str
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class VectorCollection:
    """A collection's settings, kept with the collection itself. `physical` is Milvus's name for it."""

    id: str
    model: Fingerprint
    metric: Metric
    index: Index
    description: str = ""
    create_time: float = field(default_factory=time.time)
    physical: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "model": self.model.to_json(),
            "metric": self.metric.value,
            "index": {"type": self.index.type, "parameters": dict(self.index.parameters)},
            "description": self.description,
            "create_time": self.create_time,
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
            physical=physical,
        )

    def at(self, physical: str) -> VectorCollection:
        return replace(self, physical=physical)


@dataclass(frozen=True)
class Record:
    """A vector with its key and attributes."""

    image_id: str
    vector: Vector | None
    attributes: Attributes


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
