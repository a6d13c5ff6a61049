"""Gives the threads that compute a lower priority than the event loop."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

NICENESS = 5


def give_way() -> None:
    """Lower the priority of the calling thread and of the threads that it starts. Only Linux has priorities of threads.

    A batch keeps all cores busy for a while. The event loop needs little time, but it must answer during that while.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
