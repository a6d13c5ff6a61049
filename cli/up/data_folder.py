"""The folder for the embedded stores and the logs: for one `wentu up` at a time, and for this user alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import CommandError

LOCK = "up.lock"
LOGS = "logs"
OURS = ("images.db", "milvus.db", LOGS, LOCK)


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
        _close(folder)
        yield


def _close(folder: Path) -> None:
    """Remove other users' access to files of earlier versions. A folder that existed before keeps its mode."""
    for path in folder.iterdir():
        if path.name.startswith(OURS) and path.stat().st_mode & 0o077:
            with contextlib.suppress(PermissionError):  # it belongs to another user, and stays as it is
                path.chmod(path.stat().st_mode & 0o700)
