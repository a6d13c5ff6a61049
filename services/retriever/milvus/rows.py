"""Records as rows of Milvus, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from services.retriever.milvus.literals import ATTRIBUTES, KEY, VECTOR, attribute_name, stored_name
from services.retriever.records import Attributes, Hit, Metric, Record

# What else is known of a record stands among its attributes, under names that no attribute is stored by.
_CONTENT, _MODEL = "%content", "%model"
# Names of attributes that are null: Milvus 2.3 takes one for an attribute that exists.
_NULLS = "%nulls"
_OWN = frozenset({_CONTENT, _MODEL, _NULLS})


def fields(with_vectors: bool) -> list[str]:
    """The fields that a record is read from."""
    return [KEY, ATTRIBUTES, VECTOR] if with_vectors else [KEY, ATTRIBUTES]


def row(record: Record) -> dict[str, Any]:
    stored: dict[str, Any] = {
        stored_name(name): value for name, value in record.attributes.items() if value is not None
    }
    stored |= {_CONTENT: record.content_sha256, _MODEL: record.model_sha256}
    if nulls := [name for name, value in record.attributes.items() if value is None]:
        stored[_NULLS] = nulls
    return {KEY: record.image_id, VECTOR: record.vector, ATTRIBUTES: stored}


def attributes_of(found: Mapping[str, Any]) -> Attributes:
    """The attributes as they were handed in."""
    stored = found[ATTRIBUTES]
    attributes = {attribute_name(name): value for name, value in stored.items() if name not in _OWN}
    return attributes | dict.fromkeys(stored.get(_NULLS, ()))


def record(found: Mapping[str, Any], with_vectors: bool) -> Record:
    stored = found[ATTRIBUTES]
    return Record(
        found[KEY],
        np.array(found[VECTOR], dtype=np.float32) if with_vectors else None,
        attributes_of(found),
        content_sha256=stored.get(_CONTENT, ""),
        model_sha256=stored.get(_MODEL, ""),
    )


def _hit_key(found: Mapping[str, Any]) -> str:
    return str(found["entity"].get(KEY) or found.get(KEY) or found["id"])


def hit(found: Mapping[str, Any], metric: Metric, with_vectors: bool) -> Hit:
    value, entity = float(found["distance"]), found["entity"]
    score = 1.0 - value / 2.0 if metric is Metric.L2 else value
    vector = np.array(entity[VECTOR], dtype=np.float32) if with_vectors else None
    return Hit(_hit_key(found), score, attributes_of(entity), vector)
