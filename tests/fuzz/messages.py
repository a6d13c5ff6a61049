"""Random messages of any type and of bounded size. They need no template, so a new method is covered at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.fuzz.contract import new_message
from tests.fuzz.values import one_of_these, scalars

DEPTH = 4
FIELDS = 5
ITEMS = 3


def random_message(draw: st.DrawFn, descriptor: Descriptor, texts: tuple[str, ...], depth: int = DEPTH) -> Any:
    """A message with some of its fields set."""
    message = new_message(descriptor)
    if not descriptor.fields:
        return message
    for field in draw(st.lists(one_of_these(descriptor.fields), max_size=FIELDS)):
        fill(draw, message, field, texts, depth)
    return message


def fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, texts: tuple[str, ...], depth: int) -> None:
    """Put random values into a field. Messages deeper than `depth` stay empty."""
    if is_map(field):
        _fill_map(draw, message, field, texts, depth)
    elif field.is_repeated:
        values = _values(draw, field, texts, depth, draw(st.integers(0, ITEMS)))
        target = getattr(message, field.name)
        del target[:]
        target.extend(values)
    else:
        [value] = _values(draw, field, texts, depth, 1)
        put(message, field, value)


def put(message: Any, field: FieldDescriptor, value: Any) -> None:
    """Sets a field that is not repeated."""
    if field.message_type:
        # The field counts as set, although the message may be empty.
        getattr(message, field.name).SetInParent()
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _values(draw: st.DrawFn, field: FieldDescriptor, texts: tuple[str, ...], depth: int, count: int) -> Sequence[Any]:
    if field.message_type is None:
        return [draw(scalars(field, texts)) for _ in range(count)]
    if depth == 0:
        return [new_message(field.message_type) for _ in range(count)]
    return [random_message(draw, field.message_type, texts, depth - 1) for _ in range(count)]


def _fill_map(draw: st.DrawFn, message: Any, field: FieldDescriptor, texts: tuple[str, ...], depth: int) -> None:
    """Fill a map from text to messages. The contract has only this kind of map, for attributes."""
    assert field.message_type is not None
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    assert value.message_type is not None
    for _ in range(draw(st.integers(0, ITEMS))):
        entry = getattr(message, field.name)[draw(scalars(key, texts))]
        fill(draw, entry, draw(one_of_these(value.message_type.fields)), texts, max(0, depth - 1))
