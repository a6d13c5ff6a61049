"""Settings that every server has. A flag wins over the environment, and the environment over the default."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from protos import types_pb2
from services.common.limits import MAX_MESSAGE_BYTES, MESSAGE_MARGIN_BYTES, MIB


class ServerSettings(BaseSettings):
    """Settings of a server. They are made once, in its `__main__`, and never change."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port of the Prometheus metrics, over HTTP; none by default"
    )
    max_message_bytes: int = Field(MAX_MESSAGE_BYTES, ge=MIB, description="largest answer, given or taken")
    max_request_bytes: int = Field(MAX_MESSAGE_BYTES, ge=MIB, description="largest message of a request")
    max_fields_bytes: int = Field(
        8 * MIB, ge=MIB, description="bytes of one message besides image bytes, lists of texts and vectors"
    )
    max_received_bytes: int = Field(
        256 * MIB, ge=MIB, description="memory for the requests in hand at once; more are refused, streams wait"
    )
    max_concurrent_calls: int = Field(1000, ge=1, description="calls of one service at once; more are refused")
    max_connection_calls: int = Field(500, ge=1, description="calls of one connection at once; more wait")
    max_connection_age_seconds: float = Field(
        300, gt=0, description="connections are renewed after this, so that clients see new replicas"
    )
    max_connection_grace_seconds: float = Field(
        86_400, gt=0, description="and closed after this much more, whatever still runs on them"
    )
    idle_stream_seconds: float = Field(
        60, gt=0, description="how long a call may wait for the caller to send or to take a message"
    )
    shutdown_grace_seconds: float = Field(10, ge=0, description="time that running calls get at the end")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_format: Literal["json", "console"] = Field("json", description="form of the log lines")
    exit_with_parent: bool = Field(False, description="stop when standard input closes, for supervisors")

    def message_limits(self) -> types_pb2.MessageLimits:
        """The message limits that the services which call this one must respect."""
        return types_pb2.MessageLimits(
            max_request_bytes=self.max_request_bytes,
            max_fields_bytes=self.max_fields_bytes,
            max_answer_bytes=self.max_message_bytes,
        )


SettingsType = TypeVar("SettingsType", bound=BaseSettings)


def load_settings(kind: type[SettingsType], program: str) -> SettingsType:
    """Read settings from the command line and the environment. Exits with one line per mistake, and status 2.

    After this call, only the process's user can read the files that it creates, such as databases and caches.
    """
    os.umask(0o077)
    kind.model_config["cli_prog_name"] = program
    try:
        return CliApp.run(kind)
    except ValidationError as error:
        prefix = str(kind.model_config.get("env_prefix", ""))
        for mistake in error.errors():
            name = ".".join(str(part) for part in mistake["loc"])
            flag = f"--{name.replace('_', '-')}"
            print(f"{program}: {flag} ({prefix}{name.upper()}): {mistake['msg']}", file=sys.stderr)
        sys.exit(2)


def check_takes_image(max_image_bytes: int, **message_bytes: int) -> None:
    """Raises ValueError if the largest image does not fit into a message. `message_bytes` are limits by name."""
    least = max_image_bytes + MESSAGE_MARGIN_BYTES
    for name, size in message_bytes.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least:,}, for max_image_bytes is {max_image_bytes:,}")


def existing_folder(path: Path) -> Path:
    """The folder. It is created if it is missing."""
    path.mkdir(parents=True, exist_ok=True)
    return path
