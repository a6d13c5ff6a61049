"""What the gateway measures of itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class GatewayMetrics:
    """Counters of the gateway."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.precision_mismatches = Counter(
            "wentu_gateway_precision_mismatches",
            "searches and images whose vector is of another precision than the collection's: noted, or refused",
            ["operation"],
            registry=registry,
        )
