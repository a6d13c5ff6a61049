"""What the gateway measures."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge


class GatewayMetrics:
    """Of the stores behind it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.store_difference = Gauge(
            "wentu_gateway_store_difference",
            "images less vectors of a collection, if they differ at two looks: reconcile it",
            ["collection"],
            registry=registry,
        )
