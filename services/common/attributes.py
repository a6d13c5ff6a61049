"""What attributes of a picture may be, the same in every service."""

from __future__ import annotations

import math
from collections.abc import Iterator

from google.protobuf import struct_pb2

from services.common.errors import InvalidField

MAX_ATTRIBUTES_BYTES = 64 * 1024


def check_attributes(attributes: struct_pb2.Struct, field: str) -> struct_pb2.Struct:
    """Raises InvalidField for too many, and for a number that JSON cannot hold."""
    if attributes.ByteSize() > MAX_ATTRIBUTES_BYTES:
        raise InvalidField(field, f"must have at most {MAX_ATTRIBUTES_BYTES:,} bytes")
    for name, value in attributes.fields.items():
        if not all(map(math.isfinite, _numbers(value))):
            raise InvalidField(f"{field}[{name[:80]!r}]", "must be finite")
    return attributes


def _numbers(value: struct_pb2.Value) -> Iterator[float]:
    match value.WhichOneof("kind"):
        case "number_value":
            yield value.number_value
        case "struct_value":
            for part in value.struct_value.fields.values():
                yield from _numbers(part)
        case "list_value":
            for part in value.list_value.values:
                yield from _numbers(part)
