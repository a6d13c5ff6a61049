"""The metrics of every service's calls. Their names are those of go-grpc-prometheus, so that dashboards know them.

All unknown methods share one set of labels, so that a caller cannot create new labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class MethodLabels(NamedTuple):
    """The labels of a method."""

    grpc_type: str
    grpc_service: str
    grpc_method: str

    @classmethod
    def of(cls, method: str, handler: Any) -> MethodLabels:
        """The labels of `/package.Service/Method`. The handler tells which of gRPC's four shapes it has."""
        shape = {
            (False, False): "unary",
            (True, False): "client_stream",
            (False, True): "server_stream",
            (True, True): "bidi_stream",
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        _, service, name = method.split("/")
        return cls(shape, service, name)


UNKNOWN = MethodLabels("unary", "unknown", "unknown")
_METHOD = MethodLabels._fields


class CallMetrics:
    """The metrics of all services of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = Counter("grpc_server_started", "calls that came in", _METHOD, registry=registry)
        self.handled = Counter(
            "grpc_server_handled", "calls that ended, by status", (*_METHOD, "grpc_code"), registry=registry
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "time from the arrival of a call to its end",
            _METHOD,
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("grpc_server_in_flight", "calls that are served now", _METHOD, registry=registry)
        self.errors = Counter(
            "wentu_errors",
            "calls that failed, by the reason in their ErrorInfo",
            (*_METHOD, "reason"),
            registry=registry,
        )


class MethodMetrics:
    """The metrics of one method. Its labels are looked up only once."""

    def __init__(self, metrics: CallMetrics, labels: MethodLabels) -> None:
        self._metrics = metrics
        self._labels = labels
        self._started = metrics.started.labels(*labels)
        self._seconds = metrics.seconds.labels(*labels)
        self._in_flight = metrics.in_flight.labels(*labels)
        self._handled: dict[str, Counter] = {}

    def started(self) -> None:
        self._started.inc()
        self._in_flight.inc()

    def failed(self, reason: str) -> None:
        """Count an error of this project by its reason. Call `ended` after it."""
        self._metrics.errors.labels(*self._labels, reason).inc()

    def ended(self, code: str, seconds: float) -> None:
        """Count and time a call that has ended. `code` is the name of its status, such as OK."""
        self._in_flight.dec()
        self._seconds.observe(seconds)
        handled = self._handled.get(code)
        if handled is None:
            handled = self._handled[code] = self._metrics.handled.labels(*self._labels, code)
        handled.inc()
