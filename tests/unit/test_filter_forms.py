"""A filter as a message, as conditions, as a test in Python and as an expression: what must hold for every filter.

What real stores answer to them is tested in tests/services/test_filters.py.
"""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import types_pb2 as pb
from services.retriever.filters.conditions import All, AnyOf, Bound, Condition, Exists, Not, OneOf, Range, read_filter
from services.retriever.filters.matching import matches
from services.retriever.milvus.expressions import depth, expression
from services.retriever.milvus.literals import attribute_name, stored_name

# With what ends a literal, a list, a path or an expression.
texts = st.text(st.sampled_from([*"a\"\\[](){}/~%' \n\x00图or", "\U0001f600"]), max_size=8)
names = st.one_of(st.sampled_from("ab"), texts.filter(bool))
numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=False, allow_infinity=False))
values = st.one_of(texts, numbers, st.booleans())


def one_of(attribute: str, given_values: list[str | float | bool]) -> OneOf:
    return OneOf(
        attribute,
        texts=frozenset(each for each in given_values if isinstance(each, str)),
        numbers=frozenset(each for each in given_values if isinstance(each, float)),
        truths=frozenset(each for each in given_values if isinstance(each, bool)),
    )


def ranges(kind: st.SearchStrategy[str] | st.SearchStrategy[float]) -> st.SearchStrategy[Range]:
    bounds = st.none() | st.builds(Bound, kind, st.booleans())
    pairs = st.tuples(bounds, bounds).filter(any)
    return st.builds(lambda name, pair: Range(name, *pair), names, pairs)


leaves = st.one_of(
    st.builds(one_of, names, st.lists(values, min_size=1, max_size=4)),
    ranges(texts),
    ranges(numbers),
    st.builds(Exists, names),
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=1, max_size=4).map(lambda parts: AnyOf(tuple(parts))),
        st.builds(Not, inner),
    ),
    max_leaves=12,
)
attributes = st.dictionaries(names, st.one_of(values, st.none(), st.just([1]), st.just({"a": 1})), max_size=3)


def value_message(value: str | float | bool) -> pb.FilterValue:
    if isinstance(value, bool):
        return pb.FilterValue(bool_value=value)
    if isinstance(value, str):
        return pb.FilterValue(string_value=value)
    whole = value.is_integer() and abs(value) < 2**53 and str(value) != "-0.0"
    return pb.FilterValue(int_value=int(value)) if whole else pb.FilterValue(double_value=value)


def message_of(condition: Condition) -> pb.Filter:
    """The filter that a caller sends for it."""
    match condition:
        case OneOf(attribute, texts, numbers, truths):
            chosen: list[str | float | bool] = [*texts, *numbers, *truths]
            every = [value_message(each) for each in chosen]
            return pb.Filter(one_of=pb.OneOfCondition(attribute=attribute, values=every))
        case Range(attribute, low, high):
            message = pb.RangeCondition(attribute=attribute)
            for bound, names in ((low, ("gt", "gte")), (high, ("lt", "lte"))):
                if bound is not None:
                    getattr(message, names[bound.included]).CopyFrom(value_message(bound.value))
            return pb.Filter(range=message)
        case Exists(attribute):
            return pb.Filter(exists=pb.ExistsCondition(attribute=attribute))
        case All(parts):
            return pb.Filter(all=pb.AllCondition(filters=map(message_of, parts)))
        case AnyOf(parts):
            return pb.Filter(any=pb.AnyCondition(filters=map(message_of, parts)))
        case Not(inner):
            return pb.Filter(**{"not": message_of(inner)})  # type: ignore[arg-type]


@given(conditions)
def test_a_filter_is_read_as_it_was_meant(condition: Condition) -> None:
    assert read_filter(message_of(condition)) == condition


@given(conditions, attributes)
def test_every_image_is_on_one_side_of_a_filter(condition: Condition, given_attributes: dict[str, object]) -> None:
    """A missing attribute, a null and a value of another type too: there is no third answer."""
    found = matches(condition, given_attributes)
    assert matches(Not(condition), given_attributes) is (not found)
    assert matches(All((condition, condition)), given_attributes) is found
    assert matches(AnyOf((Not(condition), condition)), given_attributes) is True


@given(names, st.lists(values, min_size=1, max_size=4), attributes)
def test_one_of_is_any_of_its_values(
    name: str, given_values: list[str | float | bool], given_attributes: dict[str, object]
) -> None:
    each_alone = AnyOf(tuple(one_of(name, [value]) for value in given_values))
    assert matches(one_of(name, given_values), given_attributes) is matches(each_alone, given_attributes)


@given(conditions)
def test_no_value_and_no_name_ends_its_literal(condition: Condition) -> None:
    """What is left of an expression without its literals is of our own words."""
    written = expression(condition)
    literals: list[str] = []

    def keep(match: re.Match[str]) -> str:
        literals.append(json.loads(match.group(), strict=False))
        return '""'

    bare = re.sub(r'"(?:[^"\\]|\\.)*"', keep, written, flags=re.DOTALL)
    bare = re.sub(r"-?\d[\d.]*(e[-+]\d+)?", "0", bare)
    words = set(re.findall(r"[a-z]+", bare))
    assert words <= {"attributes", "in", "or", "and", "not", "exists", "true", "false"}
    assert set(re.sub(r"[a-z]+", "", bare)) <= set('()[]"0 ,=<>')
    assert bare.count("(") == bare.count(")")
    assert not re.search(r"[\x00-\x1f]", written), "a control character stands escaped"
    paths = re.findall(r'attributes\["((?:[^"\\]|\\.)*)"\]', written)
    assert all(not set(path) & set("[]\"'\\/~") for path in paths)


@given(st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_an_expression_is_as_flat_as_a_tree_can_be(width: int, parts: int, negated: bool) -> None:
    """Milvus refuses one that is 50 deep; joined one after the other, 200 conditions would be."""
    leaf: Condition = Exists("a")
    inner = AnyOf((leaf,) * width)
    flat = All((Not(inner) if negated else inner,) * parts)
    least = (width - 1).bit_length() + (parts - 1).bit_length() + negated
    assert depth(flat) == least + 1


@given(texts)
def test_a_stored_name_gives_its_attribute_back(name: str) -> None:
    assert attribute_name(stored_name(name)) == name
    assert stored_name("plain_名") == "plain_名"


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        (one_of("a", [1.0]), True, False),
        (one_of("a", [True]), 1, False),
        (one_of("a", [True]), True, True),
        (one_of("a", [False]), 0.0, False),
        (one_of("a", [1.0]), 1, True),
        (one_of("a", ["1"]), 1, False),
        (Range("a", Bound(0.0, True), None), True, False),
        (Range("a", Bound(0.0, True), None), 0, True),
        (Range("a", Bound(0.0, False), None), 0, False),
        (Range("a", None, Bound("b", False)), "a", True),
        (Range("a", None, Bound("b", True)), 1, False),
        (Exists("a"), None, False),
        (Exists("a"), False, True),
    ],
)
def test_a_value_is_compared_with_its_own_type_alone(condition: Condition, value: object, holds: bool) -> None:
    """In Python, and in Milvus Lite, true is 1."""
    assert matches(condition, {"a": value}) is holds
