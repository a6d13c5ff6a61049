"""Calls between the services do not use the proxies that the environment names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.images import noise
from tests.support.system import new_system

NAMES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
DEAD = "http://127.0.0.1:9"


def test_all_works_with_a_proxy_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every process: this one, `wentu up`, its services with Milvus Lite, and the command line."""
    for name in NAMES:
        monkeypatch.setenv(name, DEAD)
        monkeypatch.setenv(name.upper(), DEAD)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(noise(1))
    with new_system(tmp_path / "data").running() as system:
        assert "1 added" in system.cli("import", str(images))
        assert "a.png" in system.cli("search", "图")
        assert "UNREACHABLE" not in system.cli("status").upper()
        assert [hit.image_id for hit in system.search("images", "图").hits] == ["a.png"]
