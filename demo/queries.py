"""The development queries: everyday Chinese, and for each the emoji that a person would accept.

They were written before any answer was seen, and they serve only for measuring: the training leaves out every phrase
that equals one of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

QUERIES = Path(__file__).parent / "queries.jsonl"


@dataclass(frozen=True)
class Query:
    """`accepted`: the image ids of which one should come first."""

    text: str
    kind: str
    accepted: frozenset[int]


@cache
def development_queries() -> tuple[Query, ...]:
    lines = map(json.loads, QUERIES.read_text(encoding="utf-8").splitlines())
    return tuple(Query(line["query"], line["kind"], frozenset(map(ord, line["emoji"]))) for line in lines)


def hit_rate(found: Sequence[Sequence[int]], k: int) -> float:
    """Per cent of the queries with an accepted image among the first k. `found`: image ids, nearest first."""
    queries = development_queries()
    hits = sum(not query.accepted.isdisjoint(ids[:k]) for query, ids in zip(queries, found, strict=True))
    return 100 * hits / len(queries)
