"""What the gateway measures."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class GatewayMetrics:
    """Of the calls that it answers, and of the stores behind it."""

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
