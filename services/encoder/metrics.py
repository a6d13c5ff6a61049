"""The encoder's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EncoderMetrics:
    """Metrics per tower. The label `tower` is texts or images."""

    def __init__(self, registry: CollectorRegistry) -> None:
        tower = ["tower"]
        self.waiting = Gauge("wentu_encoder_waiting", "texts or images in the queue", tower, registry=registry)
        self.in_hand = Gauge(
            "wentu_encoder_in_hand", "texts or images taken on and not answered", tower, registry=registry
        )
        self.batch = Histogram(
            "wentu_encoder_batch_items", "texts or images computed together", tower, buckets=_ITEMS, registry=registry
        )
        self.wait = Histogram(
            "wentu_encoder_wait_seconds", "time in the queue", tower, buckets=_SECONDS, registry=registry
        )
        self.compute = Histogram(
            "wentu_encoder_compute_seconds", "time of a batch on the device", tower, buckets=_SECONDS, registry=registry
        )
        self.decode = Histogram(
            "wentu_encoder_decode_seconds", "time to decode and resize an image", buckets=_SECONDS, registry=registry
        )
        self.dropped = Counter(
            "wentu_encoder_dropped",
            "texts or images without a vector: overloaded, expired, cancelled, failed",
            ["tower", "cause"],
            registry=registry,
        )
        self.cached = Counter(
            "wentu_encoder_text_cache",
            "texts by whether their vector was kept: hit, miss",
            ["result"],
            registry=registry,
        )
