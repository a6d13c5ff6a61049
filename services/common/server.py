"""The life of a server: build, bind, start, become ready, serve, refuse new calls, finish running calls, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from services.common.addresses import host_port
from services.common.call_metrics import CallMetrics
from services.common.errors import StartError
from services.common.health import Check, Readiness
from services.common.interceptors import ServiceInterceptor
from services.common.limits import MIB
from services.common.metrics import metrics_served
from services.common.reception import Reception
from services.common.reflection import add_reflection
from services.common.settings import ServerSettings

log = structlog.get_logger()

# Callers that watch the health service have this long to change to another replica before connections close.
TURN_AWAY_SECONDS = 0.3
MAX_METADATA_BYTES = 16 * 1024
MAX_PENDING_CALLS = 20_000

Register = Callable[[aio.Server], None]


def server_options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        # Higher than our own limit, since our own error tells the caller more.
        ("grpc.max_receive_message_length", settings.max_request_bytes + MIB),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # With port sharing on, a second server binds the same port without an error.
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", round(settings.max_connection_grace_seconds * 1000)),
        ("grpc.max_concurrent_streams", settings.max_connection_calls),
        # Beyond these limits gRPC cancels random calls without a reason, before our code can refuse them.
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # A peer that is gone is detected, and a peer that sends too many pings is disconnected.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
        ("grpc.http2.max_ping_strikes", 2),
    ]


@asynccontextmanager
async def running(
    settings: ServerSettings,
    services: Sequence[str],
    register: Sequence[Register],
    checks: Mapping[str, Check],
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[int]:
    """A started server. Yields its port.

    `services` are the full names for reflection. `checks` are keyed by the names of the health service, where '' is the
    whole process. `registry` holds the service's own metrics. The metrics of its calls are added here.
    """
    registry = registry or CollectorRegistry()
    with metrics_served(settings, registry):
        async with _serving(settings, services, register, checks, CallMetrics(registry)) as port:
            yield port


@asynccontextmanager
async def _serving(
    settings: ServerSettings,
    services: Sequence[str],
    register: Sequence[Register],
    checks: Mapping[str, Check],
    metrics: CallMetrics,
) -> AsyncIterator[int]:
    server = aio.server(
        interceptors=[ServiceInterceptor(Reception(settings), metrics)], options=server_options(settings)
    )
    for add in register:
        add(server)
    readiness = Readiness(checks)
    health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    add_reflection(server, (*services, health_name))
    await readiness.begin()
    port = _bind(server, host_port(settings.host, settings.port))
    await server.start()
    await readiness.check_all()
    # Existing objects live until the end. So the garbage collector can skip them, during which callers would wait.
    gc.collect()
    gc.freeze()
    watcher = asyncio.create_task(readiness.watch(), name="readiness")
    log.info("serving", address=host_port(settings.host, port))
    try:
        yield port
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await readiness.servicer.enter_graceful_shutdown()
        await asyncio.sleep(min(TURN_AWAY_SECONDS, settings.shutdown_grace_seconds))
        await server.stop(settings.shutdown_grace_seconds)
        log.info("stopped")


def _bind(server: aio.Server, address: str) -> int:
    """Listen on an address. Returns the port. Raises StartError if the port is in use or not allowed."""
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}: it is taken, or not an address of this machine") from error


async def until_stopped(settings: ServerSettings) -> None:
    """Wait for SIGTERM or SIGINT, or for the end of the parent process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.exit_with_parent:
        threading.Thread(target=_watch_parent, name="parent", daemon=True).start()
    await stop.wait()
    log.info("stopping")


def _watch_parent() -> None:
    """Wait for the end of standard input. The parent holds its other end, so this shows the parent's end."""
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
