"""Tells callers if vectors were computed in another precision than the collection's, since scores differ slightly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from gateway.metrics import GatewayMetrics
from protos import search_pb2 as pb
from services.common.errors import PrecisionMismatch
from services.common.fingerprint import precisions_differ

Operation = Literal["search", "import"]


class PrecisionNotes:
    """Compares the precision of new vectors with a collection's. Counts differences and adds notes for callers."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._mismatches = metrics.precision_mismatches

    def of(self, collection_precision: str, precision: str, operation: Operation) -> list[pb.Note.ValueType]:
        """The notes for one search or image. Empty if the precisions are equal or one of them is unknown."""
        if not precisions_differ(collection_precision, precision):
            return []
        self._mismatches.labels(operation).inc()
        return [pb.NOTE_PRECISION_MISMATCH]

    @contextmanager
    def counting(self, operation: Operation, count: int = 1) -> Iterator[None]:
        """Count the searches or images that a strict collection refuses in the block."""
        try:
            yield
        except PrecisionMismatch:
            self._mismatches.labels(operation).inc(count)
            raise
