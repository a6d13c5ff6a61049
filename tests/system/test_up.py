"""`wentu up` as a supervisor, and in the environments that people have."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from protos import search_pb2 as pb
from services.common.probe import is_serving
from tests.fuzz.contract import PORT_OFFSETS
from tests.support.images import gallery
from tests.support.servers import process
from tests.support.system import START_SECONDS, System, new_system

SAMPLE = {image.image_id: image.data for image in gallery()[:12]}
HANG_SECONDS = 10
PASSWORD = "geheim"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> dict[str, int]:
    """The services that a `wentu up` runs."""
    found = {}
    for line in subprocess.check_output(["ps", "-o", "pid=,args=", "--ppid", str(pid)], text=True).splitlines():
        words = line.split()
        if "-m" in words:
            found[words[words.index("-m") + 1].removeprefix("services.")] = int(words[0])
    return found


def wait_gone(pids: dict[str, int], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids.values())):
        assert time.monotonic() < deadline, {name: pid for name, pid in pids.items() if is_alive(pid)}
        time.sleep(0.1)


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> float:
    """How long it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds
        time.sleep(0.05)
    return time.monotonic() - started


@dataclass
class Callers:
    """A search and an import that are repeated all the time, with the result of each attempt."""

    system: System
    done: dict[str, int] = field(default_factory=lambda: {"search": 0, "import": 0})
    retried: int = 0
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def search(self) -> None:
        self.system.search("kept", f"花{self.done['search']}", top_k=3)  # another text each time: none is cached

    def add(self) -> None:
        for answer in self.system.add("kept", SAMPLE).values():
            if answer.status == pb.ADD_STATUS_FAILED:
                assert answer.error.code == UNAVAILABLE.value[0], answer.error
                self.retried += 1

    def repeat(self, name: str, call: Callable[[], None]) -> None:
        while not self.stopped.is_set():
            try:
                call()
                self.done[name] += 1
            except grpc.RpcError as error:
                if error.code() is not UNAVAILABLE:
                    self.failures.append(f"{name}: {error.code()}: {error.details()}")
                self.retried += 1
            except AssertionError as error:
                self.failures.append(f"{name}: {error}")
            time.sleep(0.02)

    @contextmanager
    def calling(self) -> Iterator[None]:
        calls = {"search": self.search, "import": self.add}
        threads = [threading.Thread(target=self.repeat, args=each) for each in calls.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def both_go_on(self) -> None:
        before = dict(self.done)
        wait_until(lambda: all(self.done[name] > before[name] for name in before))


def test_what_dies_or_hangs_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each service is killed in turn, then one is frozen, while a search and an import go on. Then all is killed."""
    monkeypatch.setenv("WENTU_HANG_SECONDS", f"{HANG_SECONDS}")
    system = new_system(tmp_path, "--restart")
    said = tmp_path / "up.txt"
    with system.running():
        system.create("kept")
        callers = Callers(system)
        with callers.calling():
            for name, offset in PORT_OFFSETS.items():
                callers.both_go_on()
                os.kill(children_of(system.child.pid)[name], signal.SIGKILL)
                address = f"127.0.0.1:{system.port + offset}"
                wait_until(lambda address=address: not is_serving(address))  # type: ignore[misc]
                took = wait_until(lambda address=address: is_serving(address))  # type: ignore[misc]
                print(f"{name} is back after {took:.1f} s")
                # Ten seconds on an idle machine.
                assert took < 10 * max(1, os.getloadavg()[0] / (os.cpu_count() or 1))
                assert f"{name} was killed by SIGKILL; it is started again" in said.read_text()
            callers.both_go_on()
            os.kill(children_of(system.child.pid)["retriever"], signal.SIGSTOP)
            wait_until(lambda: f"retriever did not answer for {HANG_SECONDS} s and was killed" in said.read_text())
            callers.both_go_on()
        assert callers.failures == []
        assert callers.retried > 0
        assert system.count("kept") == len(SAMPLE)
        pids = children_of(system.child.pid)
        assert set(pids) == set(PORT_OFFSETS)
        os.kill(system.child.pid, signal.SIGKILL)
        wait_gone(pids)


def test_without_restarts_a_dead_child_takes_the_rest_down(tmp_path: Path) -> None:
    system = new_system(tmp_path)
    with system.running():
        pids = children_of(system.child.pid)
        os.kill(pids["retriever"], signal.SIGKILL)
        wait_gone(pids)
        assert system.child.wait(30) == 1
        assert "wentu: retriever was killed by SIGKILL" in (tmp_path / "up.txt").read_text()


def test_up_says_what_is_wrong_and_no_password(tmp_path: Path, embedded: System) -> None:
    command = [sys.executable, "-m", "cli.main", "up", "--data", str(tmp_path)]
    database = {"WENTU_IMAGESTORE_DATABASE": f"mysql://user:{PASSWORD}@127.0.0.1:1/wentu"}  # nothing is there
    for flags, more, says in (
        (["--port", str(embedded.port)], {}, f"port {embedded.port} is used by process "),
        (["--port", "0", "--data", str(embedded.data)], {}, f"is already used by process {embedded.child.pid}, also"),
        (["--port", "0", "--model", "nope"], {}, "encoder ended with code 1: wentu-encoder: there is no checkpoint at"),
        (["--port", "0"], database, "imagestore ended with code 1: wentu-imagestore: OperationalError: (2003, "),
    ):
        environment = {**os.environ, **more}
        done = subprocess.run([*command, *flags], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, says in done.stderr, done.stderr.count("\n")) == (1, True, 1), done.stderr
        said = [done.stdout, done.stderr, *(log.read_text() for log in tmp_path.glob("logs/*.log"))]
        assert not any(PASSWORD in each for each in said)


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Environments by name. A machine without the sources of locales has no GBK: there, Python alone writes it."""
    folder = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "zh_CN", "-f", "GBK", str(folder / "zh_CN.GBK")]
    made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    gbk = {"LOCPATH": str(folder), "LC_ALL": "zh_CN.GBK"} if made else {"PYTHONIOENCODING": "gbk"}
    return {"gbk": gbk, "C": {"LC_ALL": "C"}, "ascii": {"PYTHONIOENCODING": "ascii"}}


def test_any_terminal_any_folder_any_address(tmp_path: Path, locales: dict[str, dict[str, str]]) -> None:
    """`wentu up` in a GBK terminal, on a folder with a difficult name, on IPv6, on ports that are free; then Ctrl-C."""
    host = "::1" if Path("/proc/net/if_inet6").exists() else "127.0.0.2"
    images, said = tmp_path / "images", tmp_path / "up.txt"
    images.mkdir()
    for image_id, data in SAMPLE.items():
        (images / f"{image_id}图.webp").write_bytes(data)
    # As a terminal of that locale sends it.
    sent_in = {name: "gbk" if "zh_CN.GBK" in locales[name].values() else "utf-8" for name in locales}
    folder = f"{tmp_path}/数据 'a' \"b\" 50%20?#".encode(sent_in["gbk"])
    command = [sys.executable, "-m", "cli.main"]
    up: list[str | bytes] = [*command, "up", "--data", folder, "--host", host, "--port", "0", "--no-restart"]
    with process(up, said, cwd="/", **locales["gbk"]) as child:
        wait_until(lambda: b"try: " in said.read_bytes() or child.poll() is not None, START_SECONDS)
        printed = said.read_bytes().decode("gbk")
        found = re.search(r"--gateway (\S+);", printed)
        assert found, printed
        assert "数据" in printed
        for place, name in enumerate(locales):
            environment = {**os.environ, **locales[name], "WENTU_GATEWAY": found[1]}
            for arguments, says in (
                (["import", str(images), "-c", "kept"], f"{len(SAMPLE)} {'skipped' if place else 'added'}"),
                (["search", "笑脸".encode(sent_in[name]), "-c", "kept", "-k", "1"], ".webp"),
            ):
                line = [*command, *arguments]
                done = subprocess.run(line, env=environment, cwd="/", capture_output=True, check=False)
                assert done.returncode == 0, done
                assert says.encode() in done.stdout, done
                assert b"Traceback" not in done.stderr, done
        modes = {path: path.stat().st_mode & 0o077 for path in Path(os.fsdecode(folder)).rglob("*")}
        assert len(modes) > 6
        assert not any(modes.values()), modes
        pids = children_of(child.pid)
        for pid in pids.values():  # nothing else of theirs is for all users' eyes: a setting may hold a password
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            assert {word for word in words if word.startswith("--")} == {"--host", "--port", "--exit-with-parent"}
        child.send_signal(signal.SIGINT)
        wait_gone(pids)
        assert child.wait(10) == 0
