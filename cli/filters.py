"""`--filter`: a condition on attributes as people type it, or the contract's Filter as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from google.protobuf import json_format

from cli.errors import CommandError
from protos import types_pb2

_CONDITION = re.compile(r"\s*(?P<attribute>[^=<>!]+?)\s*(?P<operator>!=|>=|<=|=|>|<)\s*(?P<value>.*?)\s*", re.DOTALL)
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_INT64 = range(-(2**63), 2**63)


def parse_filters(given: Sequence[str]) -> types_pb2.Filter | None:
    """All of the conditions together; None if there are none. Raises CommandError."""
    filters = [parse_filter(each) for each in given]
    if len(filters) <= 1:
        return filters[0] if filters else None
    return types_pb2.Filter(all=types_pb2.AllCondition(filters=filters))


def parse_filter(text: str) -> types_pb2.Filter:
    """`year>=2020`, `tag=海边`, `draft!=true`, or JSON of the contract's Filter. Raises CommandError."""
    if text.lstrip().startswith("{"):
        try:
            return json_format.Parse(text, types_pb2.Filter())
        except json_format.ParseError as error:
            raise CommandError(f"--filter: is not a Filter of the contract: {' '.join(str(error).split())}") from error
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise CommandError(f"--filter: {text!r} is not ATTRIBUTE OPERATOR VALUE with = != < <= > >=, nor JSON")
    attribute, operator, value = match["attribute"], match["operator"], _value(match["value"])
    if operator in _BOUNDS:
        condition = types_pb2.RangeCondition(attribute=attribute)
        getattr(condition, _BOUNDS[operator]).CopyFrom(value)
        return types_pb2.Filter(range=condition)
    equals = types_pb2.Filter(equals=types_pb2.EqualsCondition(attribute=attribute, value=value))
    if operator == "=":
        return equals
    negated = types_pb2.Filter()
    getattr(negated, "not").CopyFrom(equals)
    return negated


def _value(text: str) -> types_pb2.FilterValue:
    """A number, true, false or a text in double quotes as in JSON; anything else is a text as it stands."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, bool):
        return types_pb2.FilterValue(bool_value=value)
    if isinstance(value, int) and value in _INT64:
        return types_pb2.FilterValue(int_value=value)
    if isinstance(value, int | float):
        return types_pb2.FilterValue(double_value=float(value))
    return types_pb2.FilterValue(string_value=value if isinstance(value, str) else text)
