"""The folder for the embedded stores and the logs: for one `wentu up` at a time, and for this user alone."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import CommandError
from cli.terminal import warn

LOCK = "up.lock"
LOGS = "logs"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, created if it is missing, held until the end.

    Raises CommandError if it cannot be used, or if another `wentu up` uses it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / LOGS).mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileExistsError as error:
        raise CommandError(f"--data {folder}: {error.filename} is a file, not a folder") from error
    except OSError as error:
        raise CommandError(f"--data {folder} cannot be used: {error.filename}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+") as lock:
        try:
            # The lock ends with the process, however that ends.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise CommandError(f"--data {folder} cannot be locked: {error.strerror}") from error
            user = lock.read().strip() or "another one"
            raise CommandError(f"--data {folder} is already used by process {user}, also a wentu up") from error
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        if folder.stat().st_mode & 0o077:
            warn(f"other users of this machine can look into {folder}; chmod -R go= {folder} keeps them out")
        yield
