"""If limits of different services do not agree, the status shows it, and every service still starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.common.limits import MAX_IMAGE_BYTES, MIB
from tests.support.system import System
from tests.system.test_store_difference import second_gateway, wait_for


@pytest.mark.parametrize("system", ["embedded"], indirect=True)
def test_limits_that_do_not_agree_are_told(system: System, tmp_path: Path) -> None:
    larger = MAX_IMAGE_BYTES + MIB
    warnings = [
        f"max_image_bytes of the {name} is {MAX_IMAGE_BYTES:,} and must be at least {larger:,}"
        for name in ("encoder", "imagestore")
    ]
    with second_gateway(system, tmp_path, "--max-image-bytes", str(larger)) as (address, _):
        wait_for(lambda: all(warning in (tmp_path / "gateway.log").read_text() for warning in warnings))
        command = [sys.executable, "-m", "cli.main", "status", "--gateway", address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stderr.replace("\n", " ")
    assert all(warning in told for warning in warnings), done.stderr
    assert "must be at least" not in system.cli("status")
