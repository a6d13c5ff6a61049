"""`wentu up` before anything runs: which settings, addresses and folders it takes, and what it says of bad ones."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.up.child import _last_words
from cli.up.data_folder import held
from cli.up.ports import Place, places, refusal
from cli.up.services import NAMES, OLD_ENCODER, elsewhere, services
from services.common.addresses import host_port

PLACES = {name: Place("127.0.0.1", number) for number, name in enumerate((*NAMES, OLD_ENCODER), start=1)}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_addresses() -> None:
    assert host_port("::1", 5) == host_port("[::1]", 5) == "[::1]:5"
    assert host_port("127.0.0.1", 5) == "127.0.0.1:5"
    for host, address in (("0.0.0.0", "127.0.0.1:5"), ("::", "[::1]:5"), ("localhost", "localhost:5")):
        assert Place(host, 5).address == address


def test_free_ports_differ() -> None:
    found = places("127.0.0.1", 0, NAMES, {})
    assert len({place.port for place in found.values()}) == len(NAMES)
    assert all(place.port for place in found.values())


def test_variables_place_the_other_services(taken: int) -> None:
    given = {"WENTU_RETRIEVER_HOST": "127.0.0.2", "WENTU_RETRIEVER_PORT": f"{taken}"}
    found = places("127.0.0.1", 0, NAMES, given)
    assert found["retriever"] == Place("127.0.0.2", taken), "it is taken on another address only"


@pytest.mark.parametrize(
    ("host", "port", "environment", "says"),
    [
        ("127.0.0.1", 65534, {}, "4 ports are needed, and 65535 is the last; give 65532 or less"),
        ("nohost.invalid", 0, {}, "--host nohost.invalid: there is no such address"),
        ("192.0.2.1", 0, {}, "--host 192.0.2.1: this machine does not have that address"),
        ("127.0.0.1", 0, {"WENTU_ENCODER_PORT": "x"}, "WENTU_ENCODER_PORT is 'x'; it must be a number"),
    ],
)
def test_places_that_cannot_be_taken(host: str, port: int, environment: dict[str, str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        places(host, port, NAMES, environment)


def test_a_port_in_use_names_its_user(taken: int) -> None:
    with pytest.raises(CommandError, match=rf"port {taken} is used by process {os.getpid()} \("):
        places("127.0.0.1", 0, NAMES, {"WENTU_ENCODER_PORT": f"{taken}"})


def test_a_privileged_port() -> None:
    error = OSError(errno.EACCES, "Permission denied")
    assert "port 80: this user may not listen on it" in refusal(Place("127.0.0.1", 80), error)


def test_only_flags_override_variables_and_no_value_is_a_flag(tmp_path: Path) -> None:
    def settings(**given: str) -> dict[str, dict[str, str]]:
        made = services(tmp_path, PLACES, "new.pt", "", "mysql://u:secret@h/d", "old", **given)
        assert "secret" not in repr(made)
        assert [each.name for each in made if each.must_serve] == ["encoder", "old-encoder"]
        return {each.name: dict(each.settings) for each in made}

    assert settings() == {
        "encoder": {"WENTU_ENCODER_MODEL": "new.pt"},
        "old-encoder": {"WENTU_ENCODER_MODEL": "old", "WENTU_ENCODER_ARCHITECTURE": ""},
        "retriever": {"WENTU_RETRIEVER_MILVUS": str(tmp_path / "milvus.db")},
        "imagestore": {"WENTU_IMAGESTORE_DATABASE": "mysql://u:secret@h/d"},
        "gateway": {
            "WENTU_GATEWAY_ENCODER": "127.0.0.1:2",
            "WENTU_GATEWAY_RETRIEVER": "127.0.0.1:3",
            "WENTU_GATEWAY_IMAGESTORE": "127.0.0.1:4",
            "WENTU_GATEWAY_OTHER_ENCODERS": "127.0.0.1:5",
        },
    }
    made = settings(architecture="RN50", precision="f32", other_encoders="far:1")
    assert made["encoder"] == {
        "WENTU_ENCODER_MODEL": "new.pt",
        "WENTU_ENCODER_ARCHITECTURE": "RN50",
        "WENTU_ENCODER_PRECISION": "f32",
    }
    assert made["old-encoder"]["WENTU_ENCODER_PRECISION"] == "f32"
    assert made["gateway"]["WENTU_GATEWAY_OTHER_ENCODERS"] == "127.0.0.1:5,far:1"


def test_a_service_takes_the_other_variables_too(tmp_path: Path) -> None:
    encoder = services(tmp_path, PLACES, "new.pt", "", "")[0]
    own = {"wentu_encoder_model": "RN50", "WENTU_ENCODER_TEXT_CACHE": "0"}
    assert encoder.environment(own) == {"WENTU_ENCODER_MODEL": "new.pt", "WENTU_ENCODER_TEXT_CACHE": "0"}


def test_a_service_that_runs_elsewhere_is_not_started(tmp_path: Path) -> None:
    distant = elsewhere({"WENTU_GATEWAY_RETRIEVER": "far:1", "WENTU_GATEWAY_PORT": "5"})
    assert distant == {"retriever": "far:1"}
    near = {name: place for name, place in PLACES.items() if name not in (*distant, OLD_ENCODER)}
    made = services(tmp_path, near, "demo", "", "")
    assert [each.name for each in made] == ["encoder", "imagestore", "gateway"]
    assert "WENTU_GATEWAY_RETRIEVER" not in made[-1].settings


def test_a_data_folder_is_private_and_has_one_user(tmp_path: Path) -> None:
    folder = tmp_path / "数据 '50%'"
    with held(folder):
        assert [path.stat().st_mode & 0o777 for path in (folder, folder / "logs", folder / "up.lock")] == [
            0o700,
            0o700,
            0o600,
        ]
        # The lock is one of processes: this one has it already.
        script = "import sys, pathlib; from cli.up.data_folder import held; held(pathlib.Path(sys.argv[1])).__enter__()"
        done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=False)
        assert f"is already used by process {os.getpid()}, also a wentu up" in done.stderr
    (folder / "images.db-wal").touch(0o644)
    (folder / "milvus.db").mkdir(0o755)
    with held(folder):
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"logs": 0o700, "up.lock": 0o600, "images.db-wal": 0o600, "milvus.db": 0o700}


def test_data_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, says in (
        (tmp_path / "file", "file is a file, not a folder"),
        (tmp_path / "file" / "below", "Not a directory"),
        (Path("/proc/below"), "cannot be used: /proc/below: "),
    ):
        with pytest.raises(CommandError, match=says), held(folder):
            pass


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"event": "crashed", "exception": "Traceback\\n  File\\nValueError: why"}', "ValueError: why"),
        ('{"event": "stderr", "line": "wentu-encoder: why"}', "wentu-encoder: why"),
        ('{"event": "call", "code": "OK"}', ""),
        ("wentu-encoder: why", "wentu-encoder: why"),
        ("", ""),
    ],
)
def test_what_a_log_says_of_an_end(line: str, words: str) -> None:
    assert _last_words(line) == words
