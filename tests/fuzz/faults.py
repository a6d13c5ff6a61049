"""Makes one field of a valid message wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import EncodeError

from tests.fuzz.contract import new_message
from tests.fuzz.messages import fill, is_map, put
from tests.fuzz.values import one_of_these, scalars

Place = tuple[Any, FieldDescriptor]
COUNTS = (2, 65, 257, 1_001, 10_001)
# Protobuf parses at most 100 nested messages. One level of a list or filter takes two or three of them.
DEPTHS = (2, 9, 17, 24, 33, 48, 95)
MAX_BYTES = 4 * 1024 * 1024


def spoil(draw: st.DrawFn, message: Any, texts: tuple[str, ...]) -> str:
    """Change `message` in one place. Returns a description of the change."""
    places = list(_places(message))
    if not places:
        return "nothing to make wrong"
    parent, field = draw(one_of_these(places))
    done = _spoil(draw, parent, field, texts)
    return f"{field.full_name.removeprefix('wentu.v1.')} {done}"


def _places(message: Any) -> Iterator[Place]:
    """Every field of the message and of the messages in it, also unset ones, since they may belong to a oneof."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if is_map(field):
            for name in sorted(value)[:2]:
                yield from _places(value[name])
        elif field.is_repeated:
            for each in value[:2]:
                yield from _places(each)
        else:
            yield from _places(value)


def _spoil(draw: st.DrawFn, parent: Any, field: FieldDescriptor, texts: tuple[str, ...]) -> str:
    ways = ["other", "missing"]
    if field.is_repeated and not is_map(field) and len(getattr(parent, field.name)):
        ways += ["item", "many", "many"]
    if field.message_type and not is_map(field) and loop(field.message_type):
        ways += ["deep", "deep"]
    way = draw(st.sampled_from(ways))
    if way == "missing":
        parent.ClearField(field.name)
    elif way == "item":
        _spoil_item(draw, getattr(parent, field.name), field, texts)
    elif way == "many":
        return f"{way} {_repeat(getattr(parent, field.name), draw(st.sampled_from(COUNTS)))}"
    elif way == "deep":
        return f"{way} {_nest(parent, field, draw(st.sampled_from(DEPTHS)))}"
    else:
        fill(draw, parent, field, texts, depth=2)
    return way


def _spoil_item(draw: st.DrawFn, items: Any, field: FieldDescriptor, texts: tuple[str, ...]) -> None:
    place = draw(st.integers(0, len(items) - 1))
    if field.message_type is None:
        items[place] = draw(scalars(field, texts))
    else:
        items[place].Clear()


def _repeat(items: Any, times: int) -> int:
    """Repeat the items as often as the size allows."""
    first = list(items)
    size = sum(each.ByteSize() if hasattr(each, "ByteSize") else len(str(each)) + 2 for each in first)
    times = max(2, min(times, MAX_BYTES // max(1, size)))
    items.extend(first * (times - 1))
    return times


def loop(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The path of fields that leads from a type back to itself. Empty if there is none."""
    ways: list[tuple[Descriptor, tuple[FieldDescriptor, ...]]] = [(descriptor, ())]
    seen = set()
    while ways:
        at, way = ways.pop(0)
        for field in at.fields:
            inner = field.message_type
            if inner is not None and is_map(field):  # a map: go on with the type of its values
                inner = inner.fields_by_name["value"].message_type
            if inner is None:
                continue
            if inner.full_name == descriptor.full_name:
                return (*way, field)
            if inner.full_name not in seen:
                seen.add(inner.full_name)
                ways.append((inner, (*way, field)))
    return ()


def _nest(parent: Any, field: FieldDescriptor, depth: int) -> int:
    """Nest the field's value inside itself. Returns the depth that was reached."""
    assert field.message_type is not None
    way = loop(field.message_type)
    wanted = new_message(field.message_type)
    at = wanted
    for _ in range(max(1, depth // len(way))):
        for step in way:
            at = _entered(at, step)
    old = getattr(parent, field.name)
    if field.is_repeated:
        if len(old):
            at.CopyFrom(old[0])
        del old[:]
        old.append(wanted)
    else:
        at.CopyFrom(old)
        put(parent, field, wanted)
    try:
        parent.SerializeToString()
    except EncodeError:
        return _nest(parent, field, depth // 2)
    return depth


def _entered(message: Any, field: FieldDescriptor) -> Any:
    """A new message in the field."""
    inner = getattr(message, field.name)
    if is_map(field):
        return inner["deep"]
    if field.is_repeated:
        return inner.add()
    inner.SetInParent()
    return inner
