"""Channels to other services: balanced over replicas, aware of their health, retrying what is safe."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import structlog
from grpc import aio

from services.common.errors import UnreadableAnswer
from services.common.limits import MAX_MESSAGE_BYTES

log = structlog.get_logger()


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


class Unparsed:
    """Stands for an answer that cannot be parsed, of which gRPC would make None: whoever looks into it is told so."""

    def __init__(self, error: UnreadableAnswer) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


def _parsing(parse: Callable[[bytes], Any], address: str, method: str) -> Callable[[bytes], Any]:
    def parsed(raw: bytes) -> Any:
        try:
            return parse(raw)
        except Exception as error:
            log.warning("unreadable answer", address=address, method=method, bytes=len(raw), problem=str(error))
            return Unparsed(UnreadableAnswer(address, method))

    return parsed


def _check_answers(channel: aio.Channel, address: str) -> aio.Channel:
    """The channel, whose stubs are made with deserializers that do not fail."""
    for shape in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        setattr(channel, shape, _checked(getattr(channel, shape), address))
    return channel


def _checked(make: Callable[..., Any], address: str) -> Callable[..., Any]:
    def made(method: str, request_serializer: Any = None, response_deserializer: Any = None, **options: Any) -> Any:
        parse = response_deserializer and _parsing(response_deserializer, address, method)
        return make(method, request_serializer=request_serializer, response_deserializer=parse, **options)

    return made


def open_channel(address: str, *, max_message_bytes: int = MAX_MESSAGE_BYTES, retry: bool = True) -> aio.Channel:
    """A channel to `host:port`, or to a target like `dns:///encoder:50051` with several replicas behind it."""
    channel = aio.insecure_channel(
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
    return _check_answers(channel, address)
