"""Conditions as expressions of a Milvus server, every value a literal that cannot end before its end.

Filter templates, which would keep values out of the expression, came after Milvus 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.retriever.filters.conditions import All, AnyOf, Bound, Condition, Exists, Not, OneOf, Range
from services.retriever.literals import ATTRIBUTES, literal, stored_name


def expression(condition: Condition) -> str:
    """True for the rows for which the condition holds, false for the others."""
    match condition:
        case OneOf():
            return _any(_memberships(condition))
        case Range(attribute, low, high):
            bounds = [_bound(attribute, ">", low), _bound(attribute, "<", high)]
            return _all(bound for bound in bounds if bound)
        case Exists(attribute):
            return f"(exists {_path(attribute)})"
        case All(conditions):
            return _all(map(expression, conditions))
        case AnyOf(conditions):
            return _any(map(expression, conditions))
        case Not(inner):
            return f"(not {expression(inner)})"


def _path(attribute: str) -> str:
    return f"{ATTRIBUTES}[{literal(stored_name(attribute))}]"


def _memberships(condition: OneOf) -> Iterable[str]:
    path = _path(condition.attribute)
    # Lists of one type each: 2.3.5 refuses mixed ones.
    for literals in (list(map(literal, condition.texts)), list(map(literal, condition.numbers))):
        if literals:
            yield f"({path} in [{', '.join(literals)}])"
    for truth in sorted(condition.truths):
        yield f"({path} == {literal(truth)})"


def _bound(attribute: str, sign: str, bound: Bound | None) -> str:
    return f"({_path(attribute)} {sign}{'=' * bound.included} {literal(bound.value)})" if bound else ""


def _all(parts: Iterable[str]) -> str:
    return f"({' and '.join(parts)})"


def _any(parts: Iterable[str]) -> str:
    return f"({' or '.join(parts)})"
