"""Every line of a service's log is one JSON object, whoever writes it, and nothing of a dying process is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PROGRAM = r"""
import ctypes, logging, sys, warnings
from services.common.logs import configure_logs
configure_logs("encoder", "info", "json")
libc = ctypes.CDLL(None)
libc.dprintf(2, b'TIFFReadDirectory: Warning, \xff "bad" tag\n')
warnings.warn("overflow encountered in cast")
print("printed", file=sys.stderr)
libc.dprintf(2, b"without an end")
"""


def lines(ending: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM + ending], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()


def test_lines_of_c_libraries_and_an_exception_that_nobody_catches() -> None:
    found: list[dict[str, Any]] = [json.loads(line) for line in lines("raise RuntimeError('boom')")]
    assert {line["service"] for line in found} == {"encoder"}
    written = [line["line"] for line in found if line["event"] == "stderr"]
    assert written == ['TIFFReadDirectory: Warning, \\xff "bad" tag', "printed", "without an end"]
    assert any("overflow encountered" in line["event"] for line in found)
    assert "RuntimeError: boom" in next(line["exception"] for line in found if line["event"] == "crashed")


def test_a_crash_in_c_is_told() -> None:
    # The pause lets the lines before be logged. faulthandler writes a line in pieces, and others could come between.
    found = "\n".join(lines("import time; time.sleep(0.5); libc.abort()"))
    assert "Fatal Python error" in found
    assert 'File "<string>", line 10 in <module>' in found
