"""Ends threads in the middle of their work."""

from __future__ import annotations

import ctypes
import threading

import pytest

KILLS = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def kill_thread(name: str) -> None:
    """End the threads whose names begin with `name`, when they next run Python code."""
    found = [thread for thread in threading.enumerate() if thread.name.startswith(name)]
    assert found
    for thread in found:
        raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
        assert raised == 1
