"""Where the services listen: ports that exist, that are free, and that this user may take."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cli.errors import CommandError
from services.common.addresses import host_port

MAX_PORT = 65535
LOOPBACK = "127.0.0.1"
# Listening on all addresses is reached at these.
_ANY = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "::": "::1"}
_LISTENING = "0A"


@dataclass(frozen=True)
class Place:
    """Where a service listens."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """Where this machine reaches it."""
        return host_port(_ANY.get(self.host, self.host), self.port)


def places(host: str, port: int, names: Sequence[str], environment: Mapping[str, str]) -> dict[str, Place]:
    """A place for each name: the first, the gateway, at `port`, each other one port further; free ports if `port` is 0.

    WENTU_NAME_HOST and WENTU_NAME_PORT say otherwise for the others. Raises CommandError with the cause if one cannot
    be taken.
    """
    last = port + len(names) - 1
    if port and last > MAX_PORT:
        raise CommandError(
            f"--port {port}: {len(names)} ports are needed, and {MAX_PORT} is the last; "
            f"give {MAX_PORT - len(names) + 1} or less"
        )
    wanted = {names[0]: Place(host.strip("[]"), port)}
    for offset, name in enumerate(names[1:], start=1):
        given = environment.get(f"WENTU_{name.upper()}_PORT", "")
        if given and not (given.isdigit() and int(given) <= MAX_PORT):
            raise CommandError(f"WENTU_{name.upper()}_PORT is {given!r}; it must be a number from 0 to {MAX_PORT}")
        number = int(given) if given else port and port + offset
        wanted[name] = Place(environment.get(f"WENTU_{name.upper()}_HOST", LOOPBACK), number)
    with ExitStack() as held:  # all stay open until the end, so that no port is found twice
        return {name: Place(place.host, _take(place, held)) for name, place in wanted.items()}


def _take(place: Place, held: ExitStack) -> int:
    """The place's port, or a free one for 0. It stays taken until `held` ends."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"--host {place.host}: there is no such address: {reason}") from error
    port, taken, trouble = place.port, 0, None
    for family, kind, protocol, _, address in found:
        probe = held.enter_context(socket.socket(family, kind, protocol))
        # A service that ended a moment ago does not count. For a free port that option would find one twice.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(place.port != 0))
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((address[0], port, *address[2:]))
        except OSError as error:
            trouble = error
            if error.errno == errno.EADDRINUSE:
                break
        else:
            port, taken = probe.getsockname()[1], taken + 1
    # A name like localhost may have an address of a kind that this machine does not have.
    if trouble is not None and (trouble.errno == errno.EADDRINUSE or not taken):
        raise CommandError(refusal(Place(place.host, port), trouble)) from trouble
    return port


def refusal(place: Place, error: OSError) -> str:
    """The reason why a place cannot be taken, in words for people."""
    if error.errno == errno.EADDRINUSE:
        user = listener(place.port)
        return f"port {place.port} is used by {user or 'another process'}; choose other ports with --port"
    if error.errno == errno.EACCES:
        return f"port {place.port}: this user may not listen on it, as on most below 1024; choose others with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {place.host}: this machine does not have that address"
    return f"{host_port(place.host, place.port)}: {error.strerror}"


def listener(port: int) -> str:
    """The process that listens on a port, as `process 12 (python)`; empty if that cannot be known, as without root."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        fields = [line.split() for line in lines]
        inodes |= {
            f"socket:[{each[9]}]"
            for each in fields
            if each[3] == _LISTENING and int(each[1].rpartition(":")[2], 16) == port
        }
    for link in Path("/proc").glob("[0-9]*/fd/*") if inodes else ():
        try:
            if os.readlink(link) in inodes:
                process = link.parent.parent
                return f"process {process.name} ({os.fsdecode((process / 'comm').read_bytes()).strip()})"
        except OSError:  # the process ended, or belongs to another user
            continue
    return ""
