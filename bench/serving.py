"""A service in its own process, as operators run it, with its memory and processor time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.common.probe import is_serving
from tests.support.servers import free_ports, process

START_SECONDS = 600


@dataclass
class Serving:
    """A running service."""

    address: str
    child: subprocess.Popen[bytes]
    start_seconds: float

    @property
    def rss_mib(self) -> float:
        """Resident memory now, in bytes."""
        return self._status("VmRSS")

    @property
    def peak_rss_mib(self) -> float:
        """The most that it ever was."""
        return self._status("VmHWM")

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


@contextmanager
def serving(module: str, flags: Sequence[str], folder: Path) -> Iterator[Serving]:
    """`python -m module` on a free port, once it says that it is serving."""
    port = free_ports(1)
    started = time.perf_counter()
    with process([sys.executable, "-m", module, "--port", str(port), *flags], folder / f"{module}.log") as child:
        while not is_serving(f"127.0.0.1:{port}"):
            if child.poll() is not None or time.perf_counter() - started > START_SECONDS:
                raise RuntimeError((folder / f"{module}.log").read_text()[-2000:])
            time.sleep(0.05)
        yield Serving(f"127.0.0.1:{port}", child, time.perf_counter() - started)
        child.send_signal(signal.SIGTERM)
        child.wait(30)
