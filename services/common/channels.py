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

# A service that has been silent for so long is asked whether it is there, and has so long to answer: else it hangs,
# and its calls fail. Servers take pings that come more often than every 5 s for an attack.
SILENCE_SECONDS = 20.0
PING_SECONDS = 10.0
# One that does not take a connection in this time counts as not there.
CONNECT_SECONDS = 10.0

# gRPC's own balancing and retrying. Every method between the services may be repeated safely. There is no `timeout`
# in it: C-core expires such calls up to two seconds early.
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
    """Whether a channel goes through the proxy that the environment names. gRPC's own default is that it does."""
    return ("grpc.enable_http_proxy", int(use_proxy))


def foreign_options(use_proxy: bool) -> dict[str, int]:
    """Options for channels that a library opens: a server that restarts is found again within two seconds.

    gRPC's own default waits up to two minutes between attempts.
    """
    return dict([proxy_option(use_proxy), ("grpc.max_reconnect_backoff_ms", 2000)])


class ChannelOptions(TypedDict, total=False):
    """What differs from channel to channel.

    direct: to one server as it is, whatever its health, and without retries; balanced over replicas otherwise.
    max_message_bytes: of a request and of an answer.
    use_proxy: go through the proxy that the environment names.
    silence_seconds, ping_seconds: as the constants of this module.
    own_connection: share no connection with other channels of this process, and look for a server that restarts often.
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
        # C-core's default of a minute would win over the line above.
        ("grpc.http2.ping_timeout_ms", round(ping_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # A call that has nothing to send for long is asked after as often as others.
        ("grpc.http2.max_pings_without_data", 0),
        # A replica that restarts is looked for again quickly.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", round(CONNECT_SECONDS * 1000)),
        ("grpc.max_reconnect_backoff_ms", 300 if own_connection else 2000),
        ("grpc.use_local_subchannel_pool", int(own_connection)),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ]


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


def open_channel(address: str, **options: Unpack[ChannelOptions]) -> aio.Channel:
    """A channel to `host:port`, or to a target like `dns:///encoder:50051` with several replicas behind it."""
    return _check_answers(aio.insecure_channel(address, options=_options(**options)), address)


def open_sync_channel(address: str, **options: Unpack[ChannelOptions]) -> grpc.Channel:
    """As `open_channel`, for programs without an event loop."""
    return grpc.insecure_channel(address, options=_options(**options))
