"""A README as a newcomer follows it: its shell blocks, and a folder and a shell to run them in.

A comment before a block tells what to do with it; without one, it is run and must succeed:

    <!-- test: not run, because REASON -->
    <!-- test: stays up, and is ready at "TEXT" -->   it runs beside the blocks that follow, until Ctrl-C
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import end

_BLOCK = re.compile(r"(?:<!-- test: (?P<mark>.*?) -->\n\n)?```sh\n(?P<commands>.*?)```", re.DOTALL)
_MARK = re.compile(r'not run, because (?P<reason>\S.*)|stays up, and is ready at "(?P<ready>.+)"')
READY_SECONDS, BLOCK_SECONDS, STOP_SECONDS = 300, 300, 60


@dataclass(frozen=True)
class Block:
    """Commands; why they are not run, if so; and the text at which a block that stays up is ready."""

    commands: str
    reason: str = ""
    ready: str = ""


def blocks(text: str) -> list[Block]:
    """The shell blocks of a README, in order, without the comments at the ends of lines."""
    found = []
    for match in _BLOCK.finditer(text):
        mark = _MARK.fullmatch(match["mark"] or "")
        assert mark or not match["mark"], f"unknown mark: {match['mark']}"
        commands = re.sub(r" +# .*", "", match["commands"])
        found.append(Block(commands, (mark and mark["reason"]) or "", (mark and mark["ready"]) or ""))
    return found


@dataclass(frozen=True)
class Newcomer:
    """Somebody with a fresh clone and nothing else, whose commands get other ports by `replaced`."""

    folder: Path
    environment: Mapping[str, str]
    replaced: Mapping[str, str]

    def shell(self, commands: str) -> list[str]:
        for pattern, text in self.replaced.items():
            commands = re.sub(pattern, text, commands, flags=re.MULTILINE)
        return ["bash", "-euo", "pipefail", "-c", commands]

    def run(self, block: Block) -> str:
        """What the commands print; each must succeed."""
        done = subprocess.run(
            self.shell(block.commands),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block.commands}\n{done.stdout}"
        return done.stdout

    @contextmanager
    def staying(self, block: Block, log: Path) -> Iterator[str]:
        """Yields what the commands printed until they were ready. Ends them as Ctrl-C on a terminal does."""
        with log.open("wb") as file:
            child = subprocess.Popen(
                self.shell(block.commands),
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while block.ready not in log.read_text():
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield log.read_text()
            assert child.poll() is None, log.read_text()
            os.killpg(child.pid, signal.SIGINT)
            # make dies of the signal itself, after its command.
            assert child.wait(STOP_SECONDS) in (0, 130, -signal.SIGINT), log.read_text()
        finally:
            end(child)


def clone(project: Path, folder: Path) -> frozenset[str]:
    """A folder with what the repository holds, and this environment as its `.venv`. Returns the names in it."""
    folder.mkdir()
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=project, text=True).split("\0")
    names = {name.split("/")[0] for name in listed if name}
    for name in names:
        (folder / name).symlink_to(project / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return frozenset({*names, ".venv"})
