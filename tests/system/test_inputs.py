"""`wentu` with inputs and terminals as they are outside of tests."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from tests.support.images import noise
from tests.support.system import System


def test_one_bad_item_fails_alone_from_the_file_to_the_store(embedded: System, tmp_path: Path) -> None:
    name = f"c{uuid.uuid4().hex[:12]}"
    rows = [f"[/x] {number} 海边\t{base64.b64encode(noise(number)).decode()}".encode() for number in range(3)]
    other = noise(9)
    rows[1:1] = ["海边".encode("gbk") + b"\t" + base64.b64encode(other), b"7\t" + base64.b64encode(b"no image")]
    (tmp_path / "train_imgs.tsv").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows))
    report = tmp_path / "report.jsonl"
    printed = embedded.cli("import", str(tmp_path), "-c", name, "--report", str(report), code=1)
    assert "3 added, 2 failed" in printed
    failures = {entry["line"]: entry for entry in map(json.loads, report.read_text().splitlines())}
    assert set(failures) == {2, 3}
    assert failures[2]["id"] == "\\xba\\xa3\\xb1\\xdf"
    assert (failures[3]["id"], "image.data" in failures[3]["reason"]) == ("7", True)

    got = tmp_path / "got.png"
    embedded.cli("get", "[/x] 0 海边", "-c", name, "-o", str(got))
    assert got.read_bytes() == noise(0)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cli.main",
            "search",
            "[/y] :heart:",
            "-c",
            name,
            "--strong",
            "--gateway",
            embedded.address,
        ],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"[/x] 0 ??" in done.stdout
    none = json.loads(embedded.cli("search", "海", "-c", name, "--filter", "year>=2020", "--json"))
    assert "hits" not in none
    missing = embedded.cli("search", "海", "-c", name, "--sheet", str(tmp_path / "no" / "x.png"), code=1)
    assert missing.splitlines()[-1].endswith("x.png: No such file or directory")
    assert "[/x] 0 海边" in missing
    embedded.drop(name)
