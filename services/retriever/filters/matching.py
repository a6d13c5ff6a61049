"""Conditions as a test of attributes in Python, for a store that cannot be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.retriever.filters.conditions import All, AnyOf, Bound, Condition, Exists, Not, OneOf, Range


def matches(condition: Condition, attributes: Mapping[str, Any]) -> bool:
    """Whether the condition holds for an image with these attributes."""
    match condition:
        case OneOf(attribute, texts, numbers, truths):
            value = attributes.get(attribute)
            if isinstance(value, bool):
                return value in truths
            return value in texts if isinstance(value, str) else isinstance(value, int | float) and value in numbers
        case Range(attribute, low, high):
            value = attributes.get(attribute)
            if isinstance(value, bool) or not isinstance(value, str if condition.is_text else int | float):
                return False
            return _beyond(value, low) and _beyond(value, high, below=True)
        case Exists(attribute):
            return attributes.get(attribute) is not None
        case All(conditions):
            return all(matches(each, attributes) for each in conditions)
        case AnyOf(conditions):
            return any(matches(each, attributes) for each in conditions)
        case Not(inner):
            return not matches(inner, attributes)


def _beyond(value: Any, bound: Bound | None, below: bool = False) -> bool:
    if bound is None:
        return True
    if value == bound.value:
        return bound.included
    return bool(value < bound.value) is below
