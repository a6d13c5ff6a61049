"""Everything that a client may send: valid messages, messages with mistakes, random or no messages, streams."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import hypothesis.strategies as st
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from tests.fuzz.contract import Method, parsed
from tests.fuzz.faults import spoil
from tests.fuzz.messages import random_message
from tests.fuzz.templates import TEMPLATES
from tests.fuzz.values import one_of_these
from tests.fuzz.world import World

SHOWN_CHARS = 700
# Sizes in bytes of messages with one field repeated far more often than any client needs.
FLOODS = (100_000, 1_000_000, 8_000_000, 60_000_000)


class Ending(enum.Enum):
    """What the client does after it sent its messages."""

    WAITS = "waits for the answer"
    CANCELS = "cancels after its first messages"
    HURRIES = "waits for 1 ms"
    GOES_ON = "sends its last message again and again"


@dataclass(frozen=True)
class Attempt:
    """The bytes of a call. `wrong` names its mistakes. It is empty if the call is valid."""

    method: Method
    frames: tuple[bytes, ...]
    wrong: tuple[str, ...] = ()
    ending: Ending = Ending.WAITS
    reasons: frozenset[str] = frozenset()

    @property
    def is_valid(self) -> bool:
        return not self.wrong and self.ending is Ending.WAITS

    def __repr__(self) -> str:
        """The method, the mistakes, and the messages as shortened text."""
        shown = "\n    ".join(_shown(self.method, each) for each in self.frames[:4])
        more = f"\n    and {len(self.frames) - 4} more" if len(self.frames) > 4 else ""
        wrong = "; ".join(self.wrong) or "nothing"
        return f"{self.method.name}: wrong: {wrong}; the client {self.ending.value}\n    {shown}{more}"


def _shown(method: Method, frame: bytes) -> str:
    size = f"({len(frame):,} bytes) "
    try:
        # Only the size of a large message is shown: printing it would take longer than the call.
        text = text_format.MessageToString(parsed(method.request, frame[:20_000]), as_one_line=True, as_utf8=True)
    except (DecodeError, UnicodeError):
        text = repr(frame[:200])
    return size + (text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}...")


class Target:
    """A method, with the data that all of its attempts share. Its repr is short, since Hypothesis prints it often."""

    def __init__(self, method: Method, world: World, floods: Sequence[int]) -> None:
        template = TEMPLATES.get(method.name)
        self.method = method
        self.requests = template.make(world) if template else ()
        self.reasons = template.reasons if template else frozenset()
        self.texts = world.texts(method.writes)
        self.floods = floods

    def __repr__(self) -> str:
        return self.method.name


@st.composite
def attempts(draw: st.DrawFn, target: Target) -> Attempt:
    """Anything that a client may send."""
    method, texts = target.method, target.texts
    way = draw(st.sampled_from(_WAYS if target.requests else ("random", "bytes")))
    if way == "random":
        frames = [random_message(draw, method.request, texts) for _ in range(draw(_count(method)))]
        return _ended(draw, method, [each.SerializeToString() for each in frames], ["random"])
    if way == "bytes":
        return _ended(draw, method, [draw(st.binary(max_size=40))], ["random bytes"])
    chosen = draw(one_of_these(target.requests))
    copies = [type(each).FromString(each.SerializeToString()) for each in chosen]
    faults = draw(st.integers(1, 2)) if way == "spoiled" else 0
    wrong = [spoil(draw, draw(one_of_these(copies)), texts) for _ in range(faults)]
    frames = [each.SerializeToString() for each in copies]
    if way == "damaged":
        frames, wrong = _damaged(draw, frames)
    elif way == "flooded":
        frames[-1], wrong = _flooded(draw, method, frames[-1], target.floods)
    elif way == "shaped":
        frames, wrong = _shaped(draw, frames)
    return _ended(draw, method, frames, wrong, target.reasons)


# Two thirds of the attempts have wrong fields.
_WAYS = ("valid", *["spoiled"] * 14, "random", "random", "bytes", "damaged", "damaged", "flooded", "shaped")


def _count(method: Method) -> st.SearchStrategy[int]:
    return st.integers(0, 4) if method.takes_stream else st.just(1)


def _ended(
    draw: st.DrawFn,
    method: Method,
    frames: Sequence[bytes],
    wrong: Sequence[str],
    reasons: frozenset[str] = frozenset(),
) -> Attempt:
    endings = [Ending.WAITS] * 9 + [Ending.CANCELS, Ending.HURRIES]
    if method.takes_stream:
        endings += [Ending.GOES_ON]
    return Attempt(method, tuple(frames), tuple(wrong), draw(st.sampled_from(endings)), reasons)


def _damaged(draw: st.DrawFn, frames: list[bytes]) -> tuple[list[bytes], list[str]]:
    """Change, remove or insert bytes of a message."""
    place = draw(st.integers(0, len(frames) - 1))
    data = frames[place]
    at = draw(st.integers(0, min(len(data), 4_000)))
    cut = draw(st.integers(0, 8))
    frames[place] = data[:at] + draw(st.binary(max_size=8)) + data[at + cut :]
    return frames, ["damaged bytes"]


# Wire types, with the smallest value of each type that is not a varint.
_TEXT = (2, b"\0")
_ITEMS = {
    FieldDescriptor.CPPTYPE_STRING: _TEXT,
    FieldDescriptor.CPPTYPE_MESSAGE: _TEXT,
    FieldDescriptor.CPPTYPE_FLOAT: (5, bytes(4)),
    FieldDescriptor.CPPTYPE_DOUBLE: (1, bytes(8)),
}


def _flooded(draw: st.DrawFn, method: Method, frame: bytes, floods: Sequence[int]) -> tuple[bytes, list[str]]:
    """A field repeated millions of times, as raw bytes: a message object of that size takes seconds to build."""
    field = draw(one_of_these(method.request.fields)) if method.request.fields else None
    wire_type, value = _ITEMS.get(field.cpp_type, (0, b"\1")) if field else _TEXT
    item = bytes([(field.number if field else 15) << 3 | wire_type]) + value
    size = draw(st.sampled_from(floods))
    return frame + item * (size // len(item)), [f"{field.name if field else 'unknown field'} flooded, {size:,} bytes"]


def _shaped(draw: st.DrawFn, frames: list[bytes]) -> tuple[list[bytes], list[str]]:
    """A stream of another shape. Also for methods that take one message, since a client may send a stream to them."""
    shapes = {
        "no message": [],
        "the first message is missing": frames[1:],
        "the first message twice": [frames[0], *frames],
        "backwards": frames[::-1],
        "ends early": frames[:-1],
        "the last message twice": [*frames, frames[-1]],
    }
    name = draw(st.sampled_from([name for name, shape in shapes.items() if shape != frames]))
    return shapes[name], [name]
