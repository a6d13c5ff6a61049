"""The READMEs as a newcomer follows them, line by line."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts.fill_readme import LEFT_OUT, READMES
from tests.support.images import drawn, encoded
from tests.support.servers import free_ports
from tests.support.transcript import Block, Newcomer, blocks, clone

NUMBER = re.compile(r"\d[\d.,]*")


def test_both_languages_have_the_same_commands(project: Path) -> None:
    texts = [(project / name).read_text(encoding="utf-8") for name in READMES]
    english, chinese = map(blocks, texts)
    assert english == chinese
    assert len(english) == texts[0].count("```sh") > 5
    shown = [re.findall(r"```text\n.*?```", text, flags=re.DOTALL) for text in texts]
    assert shown[0] == shown[1]


def test_a_transcript_fails_with_its_commands(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path, os.environ, {})
    for commands in ("false\ntrue\n", "false | true\n", "echo $NOWHERE_SET\n", "no-such-command\n"):
        with pytest.raises(AssertionError):
            newcomer.run(Block(commands))
    with pytest.raises(AssertionError), newcomer.staying(Block("echo early", ready="never"), tmp_path / "log"):
        pass
    for mark in ("not run, because ", "perhaps"):
        with pytest.raises(AssertionError, match="unknown mark"):
            blocks(f"<!-- test: {mark} -->\n\n```sh\nfalse\n```")


def test_the_readme_line_by_line(project: Path, tmp_path: Path) -> None:
    """Every command succeeds, the demo prints what the README shows, and nothing is left that git would add."""
    checkout, home, port = tmp_path / "wentu", tmp_path / "home", free_ports(5)
    tracked = clone(project, checkout)
    (home / "Pictures/2020").mkdir(parents=True)
    (home / "Pictures/2020/beach.jpg").write_bytes(encoded(drawn(), "JPEG"))
    own = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(project)}
    # What other tests converted: it takes seconds.
    own["WENTU_ENCODER_COMPILED_CACHE"] = str(Path.home() / ".cache/wentu")
    address = {"WENTU_GATEWAY": f"127.0.0.1:{port}", "DEMO_PORT": str(port)}
    replaced = {"wentu up": f"wentu up --port {port}", "localhost:50050": f"localhost:{port}"}
    # The environment is there: make must not install it again because a file is younger.
    newcomer = Newcomer(checkout, {**os.environ, **own, **address}, {**replaced, "^make ": "make -o .venv/.runtime "})
    printed: dict[Block, str] = {}
    text = (project / "README.md").read_text(encoding="utf-8")
    with ExitStack() as staying:
        for block in blocks(text):
            if block.ready:
                staying.close()
                printed[block] = staying.enter_context(newcomer.staying(block, tmp_path / "staying.txt"))
            elif not block.reason:
                printed[block] = newcomer.run(block)
    demo, gallery, _, images, api = printed.values()
    check_demo(text, demo)
    assert "一只猫" in gallery
    assert "1 added" in images
    answers = ('"image_id": "sheet"', '"year": 2026', '"chunk"', '"image_count": "1"', '"deleted_count": "1"')
    for answer in ("wentu.v1.AdminService", *answers):
        assert answer in api
    for path in checkout.iterdir():
        if path.name not in tracked:
            name = f"{path.name}/" if path.is_dir() else path.name
            ignored = subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=project, check=False)
            assert ignored.returncode == 0, f".gitignore does not have {name}"


def check_demo(text: str, printed: str) -> None:
    """The lines that the README shows, in their order. Figures may differ, and one hit of a search."""
    match = re.search(r"<!-- demo output -->\n\n```text\n(.*?)```", text, flags=re.DOTALL)
    assert match
    shown = [line.rstrip() for line in match[1].splitlines() if line != LEFT_OUT and not line.startswith("importing")]
    lines = [line.rstrip() for line in printed.splitlines()]
    rest = iter(NUMBER.sub("N", line) for line in lines)
    for line in shown:
        if not line.startswith("│"):
            assert NUMBER.sub("N", line) in rest, f"{line}\nis missing in\n{printed}"
    wanted = [line.split("│")[2] for line in shown if line.startswith("│")]
    found = [line.split("│")[2] for line in lines if line.startswith("│")][: len(wanted)]
    assert wanted[0] == found[0]
    assert len(set(wanted) - set(found)) <= 1
