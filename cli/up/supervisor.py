"""Keeps the services running. A service that dies or hangs is started again. If one cannot start, all end.

Existing supervisors (honcho, circus, supervisor) watch only processes. Here gRPC's health service must answer, at the
start and afterwards, so this is our own.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from cli.errors import CommandError
from cli.terminal import say
from cli.up.child import CHECK_SECONDS, Child, Health, health, kill, start, stop
from cli.up.services import Service

POLL_SECONDS = 0.1
# After this time of serving, a service counts as healthy. If it fails earlier, each new start waits longer.
STEADY_SECONDS = 30.0
MAX_PAUSE_SECONDS = 30.0
# A service that must serve may report NOT_SERVING for this long, since a large batch can take long.
UNREADY_SECONDS = 120.0
# Failed starts in a row after which `wentu up` ends.
MAX_FAILED_STARTS = 10


class Supervisor:
    """The services of one `wentu up`. With `restart` false, the first that fails ends all of them."""

    def __init__(self, services: Sequence[Service], logs: Path, hang_seconds: float, *, restart: bool) -> None:
        self._services = services
        self._logs = logs
        self._hang_seconds = hang_seconds
        self._restart = restart
        self._children: dict[str, Child] = {}
        self._served = {service.name: asyncio.Event() for service in services}

    async def run(self) -> None:
        """Runs until SIGINT or SIGTERM. Raises CommandError if a service cannot run; the rest is stopped."""
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        keeping = [asyncio.create_task(self._keep(service), name=service.name) for service in self._services]
        others = [asyncio.create_task(stopped.wait()), asyncio.create_task(self._announce())]
        try:
            await asyncio.wait([others[0], *keeping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*keeping, *others):
                task.cancel()
            results = await asyncio.gather(*keeping, *others, return_exceptions=True)
            for service in reversed(self._services):
                if service.name in self._children:
                    await stop(self._children[service.name])
            say("stopped")
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _keep(self, service: Service) -> None:
        """Keep the service running. Raises CommandError if it cannot be started."""
        name = service.name
        log = self._logs / f"{name}.log"
        short_lives = failed_starts = 0
        while True:
            child = self._children[name] = await start(service, log)
            served, why = await self._life(child, again=short_lives > 0)
            failed_starts = 0 if served else failed_starts + 1
            if not (self._restart and self._served[name].is_set()):
                raise CommandError(f"{name} {why} (log: {log})")
            if failed_starts == MAX_FAILED_STARTS:
                raise CommandError(f"{name} cannot start, after {failed_starts} attempts: it {why} (log: {log})")
            short_lives = 1 if served and child.age_seconds() > STEADY_SECONDS else short_lives + 1
            pause = min(MAX_PAUSE_SECONDS, 2.0 ** (short_lives - 2)) if short_lives > 1 else 0
            say(f"{name} {why}; it is started again" + (f" in {pause:.0f} s" if pause else ""))
            await asyncio.sleep(pause)

    async def _life(self, child: Child, *, again: bool) -> tuple[bool, str]:
        """Wait for the end of the child, which is killed if it hangs. Returns whether it served, and why it ended."""
        served = asyncio.Event()
        ended = asyncio.create_task(child.process.wait())
        hanging = asyncio.create_task(self._watch(child, served, again=again))
        try:
            await asyncio.wait([ended, hanging], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            hanging.cancel()
        if child.process.returncode is None:
            await kill(child)
            return served.is_set(), f"{hanging.result()} and was killed"
        return served.is_set(), child.end()

    async def _watch(self, child: Child, served: asyncio.Event, *, again: bool) -> str:
        """Returns how the child hangs, once it does. Until it serves, it has any time: it may load a large model."""
        name = child.service.name
        async with health(child) as asked:
            await self._until_it_serves(child, asked)
            served.set()
            self._served[name].set()
            if again:
                say(f"{name} serves again after {child.age_seconds():.1f} s")
            silent = unready = 0
            # Checks are counted instead of seconds, since this process may have been stopped itself.
            while silent * CHECK_SECONDS < self._hang_seconds:
                state, _ = await asyncio.gather(asked.state(), asyncio.sleep(CHECK_SECONDS))
                silent = silent + 1 if state is None else 0
                unready = unready + 1 if state is False else 0
                if child.service.must_serve and unready * CHECK_SECONDS >= UNREADY_SECONDS:
                    return f"answered for {UNREADY_SECONDS:.0f} s that it cannot serve"
            return f"did not answer for {self._hang_seconds:.0f} s"

    async def _until_it_serves(self, child: Child, asked: Health) -> None:
        told = ""
        while not await asked.serves():
            if (news := child.news()) not in ("", told):
                told = news
                say(f"{child.service.name}: {news}")
            await asyncio.sleep(POLL_SECONDS)

    async def _announce(self) -> None:
        """Print the addresses as soon as all services serve."""
        started = time.monotonic()
        for served in self._served.values():
            await served.wait()
        say(f"ready after {time.monotonic() - started:.1f} s; data and logs in {self._logs.parent}")
        for service in reversed(self._services):
            say(f"  {service.name:<11} {service.place.address}")
        gateway = self._services[-1].place.address
        say(f"try: wentu import FOLDER --gateway {gateway}; Ctrl-C stops all of it")
