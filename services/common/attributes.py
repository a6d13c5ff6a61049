"""What attributes of a picture may be, the same in every service."""

from __future__ import annotations

import math
from collections.abc import Iterable

from google.protobuf import struct_pb2

from services.common.errors import InvalidField

MAX_ATTRIBUTES_BYTES = 64 * 1024
# An object is three messages deep on the wire, and protobuf parses a hundred: an answer that holds attributes must stay
# well below, or it poisons every search that finds the image.
MAX_DEPTH = 16


def check_attributes(attributes: struct_pb2.Struct, field: str) -> struct_pb2.Struct:
    """Raises InvalidField for too many, for too deep ones, and for a number that JSON cannot hold."""
    if attributes.ByteSize() > MAX_ATTRIBUTES_BYTES:
        raise InvalidField(field, f"must have at most {MAX_ATTRIBUTES_BYTES:,} bytes")
    for name, value in attributes.fields.items():
        _check(value, f"{field}[{name[:80]!r}]", 1)
    return attributes


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
    if depth >= MAX_DEPTH:
        raise InvalidField(field, f"must not be nested deeper than {MAX_DEPTH}")
    for part in parts:
        _check(part, field, depth + 1)
