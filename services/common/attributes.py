"""The limits of an image's attributes. They are the same in every service."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from google.protobuf import json_format, struct_pb2

from services.common.errors import InvalidField
from services.common.limits import MAX_ATTRIBUTES_BYTES, MAX_ATTRIBUTES_DEPTH

# A control character is one byte on the wire and six in JSON. This is the largest growth.
MAX_GROWTH = 6


def check_attributes(attributes: struct_pb2.Struct, field: str) -> struct_pb2.Struct:
    """Raises InvalidField if the attributes are too large or too deep, or hold a number that JSON cannot express."""
    if attributes.ByteSize() > MAX_ATTRIBUTES_BYTES:
        raise InvalidField(field, f"must have at most {MAX_ATTRIBUTES_BYTES:,} bytes on the wire")
    for name, value in attributes.fields.items():
        _check(value, f"{field}[{name[:80]!r}]", 1)
    if (size := _json_bytes(attributes)) > MAX_ATTRIBUTES_BYTES:
        raise InvalidField(field, f"must have at most {MAX_ATTRIBUTES_BYTES:,} bytes as JSON, got {size:,}")
    return attributes


def _json_bytes(attributes: struct_pb2.Struct) -> int:
    """Size as JSON text. A punctuation mark in a name counts as three bytes, since it may be stored as %XX."""
    if attributes.ByteSize() * MAX_GROWTH <= MAX_ATTRIBUTES_BYTES:
        return 0
    text = json.dumps(json_format.MessageToDict(attributes), ensure_ascii=False, separators=(",", ":"))
    marks = sum(character.isascii() and not character.isalnum() for name in attributes.fields for character in name)
    return len(text.encode()) + 2 * marks


def _check(value: struct_pb2.Value, field: str, depth: int) -> None:
    match value.WhichOneof("kind"):
        case "number_value":
            if not math.isfinite(value.number_value):
                raise InvalidField(field, "must be finite")
            return
        case "struct_value":
            parts: Iterable[struct_pb2.Value] = value.struct_value.fields.values()
        case "list_value":
            parts = value.list_value.values
        case _:
            return
    if depth >= MAX_ATTRIBUTES_DEPTH:
        raise InvalidField(field, f"must not be nested deeper than {MAX_ATTRIBUTES_DEPTH}")
    for part in parts:
        _check(part, field, depth + 1)
