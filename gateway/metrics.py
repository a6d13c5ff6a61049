"""The gateway's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from protos import search_pb2

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class GatewayMetrics:
    """Metrics of searches, precisions, and the difference of the two stores."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.precision_mismatches = Counter(
            "wentu_gateway_precision_mismatches",
            "searches and images whose vector is of another precision than the collection's: noted, or refused",
            ["operation"],
            registry=registry,
        )
        self.store_difference = Gauge(
            "wentu_gateway_store_difference",
            "images less vectors of a collection, if they differ at two looks: reconcile it",
            ["collection"],
            registry=registry,
        )
        stages = Histogram(
            "wentu_gateway_search_stage_seconds",
            "time of a search that was answered, by stage: encode, retrieve, fetch",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in ("encode", "retrieve", "fetch")}

    def searched(self, timings: search_pb2.SearchTimings) -> None:
        """Observe the stages of an answered search."""
        for stage, histogram in self._stages.items():
            duration = getattr(timings, stage)
            histogram.observe(duration.seconds + duration.nanos / 1e9)
