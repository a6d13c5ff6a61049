"""The main program of every service: reads settings, sets up logs, and serves. A failed start ends with one line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from services.common.errors import StartError, WentuError
from services.common.logs import configure_logs
from services.common.server import until_stopped
from services.common.settings import ServerSettings, load_settings

Settings = TypeVar("Settings", bound=ServerSettings)
Running = Callable[[Settings], AbstractAsyncContextManager[int]]


def run_service(name: str, kind: type[Settings], running: Running[Settings]) -> None:
    """Run the service that `running` starts, until SIGTERM or SIGINT.

    Exits with one line and code 1 if the service cannot start for a reason that its operator can fix.
    """
    program = f"wentu-{name}"
    settings = load_settings(kind, program)
    configure_logs(name, settings.log_level, settings.log_format)
    try:
        asyncio.run(_served(settings, running))
    except (StartError, WentuError, OSError) as error:
        sys.exit(f"{program}: {' '.join(str(error).split())}")


async def _served(settings: Settings, running: Running[Settings]) -> None:
    async with running(settings):
        await until_stopped(settings)
