"""The contract's Filter, checked and free of the wire.

A condition holds or does not, there is no third way: one on an attribute that is missing, null, or of another type does
not hold, and its negation does. Numbers compare as doubles, which attributes are; text compares by code points; a truth
value equals no number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from protos import types_pb2 as pb
from services.common.errors import InvalidField
from services.common.ids import check_count
from services.common.limits import (
    MAX_ATTRIBUTE_NAME_BYTES,
    MAX_FILTER_BYTES,
    MAX_FILTER_CONDITIONS,
    MAX_FILTER_DEPTH,
    MAX_FILTER_TEXT_BYTES,
    MAX_FILTER_VALUES,
)


@dataclass(frozen=True)
class OneOf:
    """The attribute has one of the values."""

    attribute: str
    texts: frozenset[str] = frozenset()
    numbers: frozenset[float] = frozenset()
    truths: frozenset[bool] = frozenset()


@dataclass(frozen=True)
class Bound:
    """One end of a range."""

    value: str | float
    included: bool


@dataclass(frozen=True)
class Range:
    """The attribute lies between the bounds, which are of one type; at least one is there."""

    attribute: str
    low: Bound | None
    high: Bound | None

    @property
    def is_text(self) -> bool:
        return any(bound is not None and isinstance(bound.value, str) for bound in (self.low, self.high))


@dataclass(frozen=True)
class Exists:
    """The attribute is there and not null."""

    attribute: str


@dataclass(frozen=True)
class All:
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    condition: Condition


Condition: TypeAlias = OneOf | Range | Exists | All | AnyOf | Not


def read_filter(message: pb.Filter, field: str = "filter") -> Condition:
    """Raises InvalidField for the first part that is not right."""
    if (size := message.ByteSize()) > MAX_FILTER_BYTES:
        raise InvalidField(field, f"must have at most {MAX_FILTER_BYTES:,} bytes, got {size:,}")
    return _Reader().read(message, field, 1)


class _Reader:
    def __init__(self) -> None:
        self._conditions = 0
        self._values = 0

    def read(self, message: pb.Filter, field: str, depth: int) -> Condition:
        self._conditions += 1
        if self._conditions > MAX_FILTER_CONDITIONS:
            raise InvalidField(
                field, f"is one more than the {MAX_FILTER_CONDITIONS:,} conditions that a filter may have"
            )
        if depth > MAX_FILTER_DEPTH:
            raise InvalidField(field, f"is nested deeper than {MAX_FILTER_DEPTH}")
        match kind := message.WhichOneof("condition"):
            case "equals":
                equals, field = message.equals, f"{field}.equals"
                self._add_values(1, field)
                return _one_of(_name(equals.attribute, field), [_value(equals.value, f"{field}.value")])
            case "one_of":
                one_of, field = message.one_of, f"{field}.one_of"
                check_count(one_of.values, f"{field}.values", MAX_FILTER_VALUES)
                self._add_values(len(one_of.values), field)
                values = [_value(value, f"{field}.values[{place}]") for place, value in enumerate(one_of.values)]
                return _one_of(_name(one_of.attribute, field), values)
            case "range":
                return _range(message.range, f"{field}.range")
            case "exists":
                return Exists(_name(message.exists.attribute, f"{field}.exists"))
            case "all" | "any":
                filters = message.all.filters if kind == "all" else message.any.filters
                field = f"{field}.{kind}.filters"
                check_count(filters, field, MAX_FILTER_CONDITIONS)
                parts = tuple(self.read(part, f"{field}[{place}]", depth + 1) for place, part in enumerate(filters))
                return All(parts) if kind == "all" else AnyOf(parts)
            case "not":
                return Not(self.read(getattr(message, "not"), f"{field}.not", depth + 1))
        raise InvalidField(field, "must have a condition: equals, one_of, range, exists, all, any or not")

    def _add_values(self, count: int, field: str) -> None:
        self._values += count
        if self._values > MAX_FILTER_VALUES:
            raise InvalidField(field, f"has more than what is left of the {MAX_FILTER_VALUES:,} values of a filter")


def _name(attribute: str, field: str) -> str:
    size = len(attribute.encode())
    if not 1 <= size <= MAX_ATTRIBUTE_NAME_BYTES:
        raise InvalidField(f"{field}.attribute", f"must be 1 to {MAX_ATTRIBUTE_NAME_BYTES} bytes of UTF-8, got {size}")
    return attribute


def _value(message: pb.FilterValue, field: str) -> str | float | bool:
    match message.WhichOneof("kind"):
        case "string_value":
            if len(message.string_value.encode()) > MAX_FILTER_TEXT_BYTES:
                raise InvalidField(field, f"must have at most {MAX_FILTER_TEXT_BYTES:,} bytes of UTF-8")
            return message.string_value
        case "int_value":
            return float(message.int_value)
        case "double_value":
            if not math.isfinite(message.double_value):
                raise InvalidField(field, "must be finite")
            return message.double_value
        case "bool_value":
            return message.bool_value
    raise InvalidField(field, "must be set: string_value, int_value, double_value or bool_value")


def _one_of(attribute: str, values: Sequence[str | float | bool]) -> OneOf:
    return OneOf(
        attribute,
        texts=frozenset(value for value in values if isinstance(value, str)),
        numbers=frozenset(value for value in values if isinstance(value, float)),
        truths=frozenset(value for value in values if isinstance(value, bool)),
    )


def _range(message: pb.RangeCondition, field: str) -> Range:
    attribute = _name(message.attribute, field)
    low = _bound(message, field, {"gt": False, "gte": True})
    high = _bound(message, field, {"lt": False, "lte": True})
    if low is None and high is None:
        raise InvalidField(field, "must have a bound: gt, gte, lt or lte")
    if low is not None and high is not None and isinstance(low.value, str) != isinstance(high.value, str):
        raise InvalidField(field, "must have bounds of one type, numbers or text")
    return Range(attribute, low, high)


def _bound(message: pb.RangeCondition, field: str, included: dict[str, bool]) -> Bound | None:
    given = [name for name in included if message.HasField(name)]  # type: ignore[arg-type]
    if len(given) > 1:
        raise InvalidField(f"{field}.{given[1]}", f"cannot stand beside {given[0]}")
    for name in given:
        value = _value(getattr(message, name), f"{field}.{name}")
        if isinstance(value, bool):
            raise InvalidField(f"{field}.{name}", "must be a number or text")
        return Bound(value, included[name])
    return None
