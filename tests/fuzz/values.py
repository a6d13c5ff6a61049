"""Values of single fields: plain values, and values that broke some system before."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import hypothesis.strategies as st
from google.protobuf.descriptor import FieldDescriptor
from PIL import Image

from tests.support.images import huge_png, icon_of, noise

ODD_TEXTS = (
    "",
    " \t\n",
    "\0",
    "a\x1b[31mb\x07",
    "\x85\u2028\u202e\ufeff",
    "<script>alert(1)</script>",
    "[bold red]x[/]",
    "'; DROP TABLE contents; --",
    '" or 1 == 1 or "',
    "a]b[0]%/~1\\",
    "%s %n {0} ${HOME}",
    "../../etc/passwd",
    "1e999",
    "图" * 64,
    "x" * 256,
    "\U0001f469\u200d\U0001f467" * 60,
    "{" * 1_001,
    "中" * 10_001,
    ("z9" * 99 + " ") * 50,
    "x" * 65_536,
    "x" * 1_000_000,
)
_LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_ODD_NUMBERS = (0, 1, 2, -1, 64, 257, 1_001, 10_001, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1)
ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 2.0, -11.0, float("nan"), float("inf"), float("-inf"), 3e38, 1e-45)


@cache
def odd_bytes() -> tuple[bytes, ...]:
    """Image bytes that are damaged or too large."""
    good = noise(1)
    animated = io.BytesIO()
    Image.new("P", (1, 1)).save(animated, "GIF")
    return (
        b"",
        b"\0",
        b"not an image",
        good[: len(good) // 2],
        good[:40] + b"\xff" * 8 + good[48:],
        good + b"\0" * 100,
        animated.getvalue(),
        icon_of(good),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xff\xd8\xff\xe0" + b"\0" * 64,
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 64,
        b"PAR1" + b"\0" * 32 + b"PAR1",
        huge_png(),
        b"\0" * (17 * 1024 * 1024),
    )


def scalars(field: FieldDescriptor, texts: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """Values of a field that is not a message. `texts` are names and tokens that exist in the system under test."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            # The last two are large, so they are drawn less often.
            *small, first, second = odd_bytes()
            large = one_of_these((*small, first, *small, *small, second))
            return st.one_of(one_of_these(small), one_of_these(small), st.binary(max_size=64), large)
        return st.one_of(one_of_these((*ODD_TEXTS, *texts)), st.sampled_from(texts), st.text(max_size=20))
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from([*known, 99, -1, 2**31 - 1, -(2**31)])
    if kind in _LIMITS:
        least, most = _LIMITS[kind]
        return st.one_of(
            st.sampled_from([each for each in (*_ODD_NUMBERS, least, most) if least <= each <= most]),
            st.integers(least, most),
        )
    return st.one_of(st.sampled_from(ODD_FLOATS), st.floats(width=32))


def one_of_these(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """As st.sampled_from, whose repr prints all values each time."""
    return st.integers(0, len(values) - 1).map(lambda place: values[place])
