"""Channels to the services: balanced over replicas, aware of their health, retrying what is safe.

Every channel of this project is made here, so that what is set here holds everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import grpc
import structlog
from grpc import aio

from services.common.errors import UnreadableAnswer
from services.common.limits import MAX_MESSAGE_BYTES

log = structlog.get_logger()

# A ping is sent to a service that was silent for SILENCE_SECONDS. If it does not answer within PING_SECONDS, it hangs,
# and its calls fail. Servers treat pings more often than every 5 s as an attack.
SILENCE_SECONDS = 20.0
PING_SECONDS = 10.0
# A service that does not accept a connection within this time counts as unreachable.
CONNECT_SECONDS = 10.0

# gRPC's own balancing and retries. Every method between the services may be repeated safely. No `timeout` is set, since
# C-core ends such calls up to two seconds early.
BALANCED = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)

Options = list[tuple[str, str | int]]


def proxy_option(use_proxy: bool) -> tuple[str, int]:
    """The option for use of the proxy that the environment names. gRPC's own default is to use it."""
    return ("grpc.enable_http_proxy", int(use_proxy))


def foreign_options(use_proxy: bool) -> dict[str, int]:
    """Options for channels that a library opens. A server that restarts is found again within two seconds.

    By default gRPC waits up to two minutes between attempts.
    """
    return dict([proxy_option(use_proxy), ("grpc.max_reconnect_backoff_ms", 2000)])


class ChannelOptions(TypedDict, total=False):
    """The options that differ between channels.

    direct: call one server, without health checks and retries. Otherwise calls are balanced over replicas.
    max_message_bytes: the largest request and answer.
    use_proxy: go through the proxy that the environment names.
    silence_seconds, ping_seconds: as the constants of this module.
    own_connection: share no connection with other channels, and look more often for a server that restarts.
    """

    direct: bool
    max_message_bytes: int
    use_proxy: bool
    silence_seconds: float
    ping_seconds: float
    own_connection: bool


def _options(
    direct: bool = False,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    use_proxy: bool = False,
    silence_seconds: float = SILENCE_SECONDS,
    ping_seconds: float = PING_SECONDS,
    own_connection: bool = False,
) -> Options:
    balanced: Options = [("grpc.service_config", BALANCED)]
    return [
        *([] if direct else balanced),
        ("grpc.enable_retries", int(not direct)),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        proxy_option(use_proxy),
        ("grpc.keepalive_time_ms", round(silence_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", round(ping_seconds * 1000)),
        # Without this, C-core's default of one minute would replace the line above.
        ("grpc.http2.ping_timeout_ms", round(ping_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Pings are also sent during a call that sends no data for a long time.
        ("grpc.http2.max_pings_without_data", 0),
        # A replica that restarts is found again quickly.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", round(CONNECT_SECONDS * 1000)),
        ("grpc.max_reconnect_backoff_ms", 300 if own_connection else 2000),
        ("grpc.use_local_subchannel_pool", int(own_connection)),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ]


class Unparsed:
    """Stands for an answer that cannot be parsed, instead of gRPC's None. Each access to it raises the error."""

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
    """Change the channel so that the deserializers of its stubs never raise. Returns the channel."""
    for shape in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        setattr(channel, shape, _checked(getattr(channel, shape), address))
    return channel


def _checked(make: Callable[..., Any], address: str) -> Callable[..., Any]:
    def made(method: str, request_serializer: Any = None, response_deserializer: Any = None, **options: Any) -> Any:
        parse = response_deserializer and _parsing(response_deserializer, address, method)
        return make(method, request_serializer=request_serializer, response_deserializer=parse, **options)

    return made


def open_channel(address: str, **options: Unpack[ChannelOptions]) -> aio.Channel:
    """A channel to `host:port`, or to a target like `dns:///encoder:50051` with several replicas behind it."""
    return _check_answers(aio.insecure_channel(address, options=_options(**options)), address)


def open_sync_channel(address: str, **options: Unpack[ChannelOptions]) -> grpc.Channel:
    """As `open_channel`, for programs without an event loop."""
    return grpc.insecure_channel(address, options=_options(**options))
