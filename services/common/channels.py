"""Channels to other services: balanced over replicas, aware of their health, retrying what is safe."""

from __future__ import annotations

import json

from grpc import aio

from services.common.settings import MIB

MAX_MESSAGE_BYTES = 64 * MIB


def service_config(retry: bool) -> str:
    """gRPC's own balancing and retrying. Every method between the services may be repeated safely.

    There is no `timeout` in it: C-core expires such calls up to two seconds early.
    """
    method: dict[str, object] = {"name": [{}]}
    if retry:
        method["retryPolicy"] = {
            "maxAttempts": 4,
            "initialBackoff": "0.05s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": ""},
            "methodConfig": [method],
        }
    )


def open_channel(address: str, *, max_message_bytes: int = MAX_MESSAGE_BYTES, retry: bool = True) -> aio.Channel:
    """A channel to `host:port`, or to a target like `dns:///encoder:50051` with several replicas behind it."""
    return aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.service_config", service_config(retry)),
            ("grpc.enable_retries", int(retry)),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # A replica that restarts is looked for again quickly.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ],
    )
