"""Conditions as expressions of a Milvus server, every value a literal that cannot end before its end.

Filter templates, which would keep values out of the expression, came after Milvus 2.3.

Milvus makes a tree of two branches each of what is joined, and refuses one that is 50 deep. So what is joined is
written as a flat tree: a filter of 1,000 conditions that is nested 16 deep is 30 deep at most.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from services.retriever.backend import Selection
from services.retriever.filters.conditions import All, AnyOf, Bound, Condition, Exists, Not, OneOf, Range
from services.retriever.milvus.literals import ATTRIBUTES, any_of, literal, stored_name


class _Part(NamedTuple):
    depth: int
    text: str


def expression(selection: Selection) -> str:
    """True for the rows that are meant, false for the others. Empty for all rows."""
    if selection is None:
        return ""
    return _part(selection).text if isinstance(selection, Condition) else any_of(selection)


def depth(condition: Condition) -> int:
    """Of the tree that Milvus makes of it."""
    return _part(condition).depth


def _part(condition: Condition) -> _Part:
    match condition:
        case OneOf():
            return _joined("or", _memberships(condition))
        case Range(attribute, low, high):
            bounds = [_bound(attribute, ">", low), _bound(attribute, "<", high)]
            return _joined("and", (_Part(1, bound) for bound in bounds if bound))
        case Exists(attribute):
            return _Part(1, f"(exists {_path(attribute)})")
        case All(conditions):
            return _joined("and", map(_part, conditions))
        case AnyOf(conditions):
            return _joined("or", map(_part, conditions))
        case Not(inner):
            part = _part(inner)
            return _Part(part.depth + 1, f"(not {part.text})")


def _joined(word: str, parts: Iterable[_Part]) -> _Part:
    """One part of all, as flat as can be: the two flattest are joined until one is left."""
    heap = list(parts)
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, _Part(second.depth + 1, f"({first.text} {word} {second.text})"))
    return heap[0]


def _path(attribute: str) -> str:
    return f"{ATTRIBUTES}[{literal(stored_name(attribute))}]"


def _memberships(condition: OneOf) -> Iterator[_Part]:
    path = _path(condition.attribute)
    # Lists of one type each: 2.3.5 refuses mixed ones.
    for literals in (list(map(literal, condition.texts)), list(map(literal, condition.numbers))):
        if literals:
            yield _Part(1, f"({path} in [{', '.join(literals)}])")
    for truth in sorted(condition.truths):
        yield _Part(1, f"({path} == {literal(truth)})")


def _bound(attribute: str, sign: str, bound: Bound | None) -> str:
    return f"({_path(attribute)} {sign}{'=' * bound.included} {literal(bound.value)})" if bound else ""
