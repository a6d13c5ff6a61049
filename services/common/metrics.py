"""Serves the metrics of a service and its process to Prometheus over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from services.common.addresses import host_port
from services.common.errors import StartError
from services.common.settings import ServerSettings

log = structlog.get_logger()


@contextmanager
def metrics_served(settings: ServerSettings, registry: CollectorRegistry) -> Iterator[None]:
    """Serves `registry` at /metrics if the settings name a port for it. Raises StartError if that is taken."""
    if settings.metrics_port is None:
        yield
        return
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(settings.metrics_port, settings.host, registry)
    except OSError as error:
        address = host_port(settings.host, settings.metrics_port)
        raise StartError(f"cannot serve metrics on {address}: {error.strerror}") from error
    log.info("metrics", address=f"http://{host_port(settings.host, server.server_port)}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
