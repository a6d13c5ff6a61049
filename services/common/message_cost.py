"""Estimates the cost of a message before it is parsed.

The bytes of an image are cheap to copy. A message of the same size with many small fields takes seconds to parse,
blocks all other calls, and needs twenty times its size in memory. So the wire form is inspected first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

# The least cost of one field. It also limits the number of steps of the inspection.
FIELD_BYTES = 16
MAX_DEPTH = 16
# Messages with free content from callers: all of it counts.
_OPEN = frozenset({"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"})
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass
class Shape:
    """The numbers of a message's fields that are copied as a whole, and of those that contain such fields."""

    cheap: set[int] = field(default_factory=set)
    inner: dict[int, Shape] = field(default_factory=dict)


def shape_of(descriptor: Any) -> Shape:
    """The shape of a message type. Image bytes, lists of texts, and vectors are cheap."""
    return _shape(descriptor, {})


def _shape(descriptor: Descriptor, known: dict[str, Shape]) -> Shape:
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    shape = known[descriptor.full_name] = Shape()
    for each in descriptor.fields:
        if _is_cheap(each):
            shape.cheap.add(each.number)
        elif each.message_type is not None and each.message_type.full_name not in _OPEN:
            shape.inner[each.number] = _shape(each.message_type, known)
    return shape


def _is_cheap(each: FieldDescriptor) -> bool:
    if each.type == FieldDescriptor.TYPE_BYTES:
        return True
    return each.is_repeated and each.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_FLOAT)


def cost(shape: Shape, raw: bytes, limit: int) -> int:
    """Bytes of everything except cheap content, at least FIELD_BYTES per field. Stops soon after `limit`."""
    return _walk(shape, raw, 0, len(raw), 0, limit, 0)


def _walk(shape: Shape, raw: bytes, place: int, end: int, spent: int, limit: int, depth: int) -> int:
    try:
        while place < end and spent <= limit:
            spent += FIELD_BYTES
            tag, place = _varint(raw, place)
            kind, number = tag & 7, tag >> 3
            if kind == _LENGTH:
                length, place = _varint(raw, place)
                inner = shape.inner.get(number)
                if inner is not None and depth < MAX_DEPTH:
                    spent = _walk(inner, raw, place, min(end, place + length), spent, limit, depth + 1)
                elif number not in shape.cheap:
                    spent += length
                place += length
            elif kind == _VARINT:
                _, place = _varint(raw, place)
            elif kind in (_FIXED64, _FIXED32):
                place += 8 if kind == _FIXED64 else 4
            else:  # a group (the contract has none) or damage: the rest counts in full
                return spent + end - place
    except IndexError:  # the message is cut off, and the parser will report it
        pass
    return spent


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    byte = raw[place]
    if byte < 0x80:
        return byte, place + 1
    value, shift = byte & 0x7F, 7
    while byte >= 0x80 and shift < 70:
        place += 1
        byte = raw[place]
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, place + 1
