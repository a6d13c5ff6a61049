"""Threads that compute leave the cores to the one that answers."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

NICENESS = 5


def give_way() -> None:
    """Lowers the priority of the calling thread, and of the threads that it will start, where threads have one (Linux).

    A batch keeps every core busy for a while; the event loop, which needs little, must take on and refuse meanwhile.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
