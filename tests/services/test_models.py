"""Checkpoints by name, from files, folders and a hub. The second start needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services.encoder.checkpoints import DEMO_FOLDER, NAMED, Named, find_checkpoint, named_config
from services.encoder.cn_clip_import import _MODEL_INFO, _MODELS
from services.encoder.errors import ModelError
from services.encoder.module import load_module


def find(model: str, architecture: str = "", cache: Path = Path("/nonexistent")) -> object:
    return find_checkpoint(model, architecture=architecture, cache=cache, hub="huggingface")


def test_the_names_are_cn_clips() -> None:
    assert {name: Named(info["struct"], _MODELS[name][1]) for name, info in _MODEL_INFO.items()} == NAMED


def test_models_that_cannot_be_had_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no checkpoint at .*nowhere\.pt, and the names are demo, ViT-B-16"):
        find(str(tmp_path / "nowhere.pt"))
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=r"has no config\.json beside it"):
        find(str(broken))
    with pytest.raises(ModelError, match="--architecture RN51 is none of"):
        find(str(broken), architecture="RN51")
    checkpoint = find_checkpoint(str(broken), architecture="RN50", cache=tmp_path, hub="huggingface")
    with pytest.raises(ModelError, match="is not a checkpoint in cn_clip's format"):
        load_module(checkpoint)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json is not a JSON object"):
        find(str(broken))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no usable embed_dim"):
        find(str(broken))
    (tmp_path / "config.json").write_text(json.dumps(named_config("RN50")))
    (tmp_path / "model.pt").write_bytes((DEMO_FOLDER / "model.pt").read_bytes())
    with pytest.raises(ModelError, match="does not fit its configuration"):
        load_module(find_checkpoint(str(tmp_path), architecture="", cache=tmp_path, hub="huggingface"))


def test_a_checksum_beside_a_checkpoint_is_held_to(tmp_path: Path) -> None:
    data = b"weights"
    (tmp_path / "clip_cn_rn50.pt").write_bytes(data)
    find("RN50", cache=tmp_path)
    assert not (tmp_path / "clip_cn_rn50.pt.sha256").exists(), "what was laid there by hand is taken as it is"
    record = tmp_path / "clip_cn_rn50.pt.sha256"
    record.write_text(f"{hashlib.sha256(data).hexdigest()}  clip_cn_rn50.pt\n")
    find("RN50", cache=tmp_path)
    (tmp_path / "clip_cn_rn50.pt").write_bytes(b"weighs")
    with pytest.raises(ModelError, match=r"is damaged or was changed: its sha256 is \w{64} and was to be \w{64}"):
        find("RN50", cache=tmp_path)


SECOND_START = """
import sys
from pathlib import Path
import numpy as np
from services.encoder.checkpoints import find_checkpoint
from services.encoder.engine_openvino import OpenVinoEngine
from services.encoder.texts import padded, tokenize_text
checkpoint = find_checkpoint("demo", architecture="", cache=Path("/nonexistent"), hub="huggingface")
engine = OpenVinoEngine(checkpoint, "f32", 1, Path(sys.argv[1]))
vector = engine.encode_texts(padded([tokenize_text("猫", max_chars=9, field="text").ids]))
print("torch" in sys.modules, engine.logit_scale, *vector[0, :4].tolist())
"""


def test_a_converted_model_starts_without_torch(tmp_path: Path) -> None:
    first, second = (
        subprocess.run([sys.executable, "-c", SECOND_START, str(tmp_path)], capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    with_torch, *figures = first.stdout.splitlines()[-1].split()
    without, *again = second.stdout.splitlines()[-1].split()
    assert (with_torch, without) == ("True", "False")
    assert [float(each) for each in again] == pytest.approx([float(each) for each in figures], abs=1e-6)


# A hub: a server in this test that answers what huggingface_hub asks for.


@dataclass
class Hub:
    """Serves one file. Ends each transfer after `sent_bytes`, if that is set."""

    data: bytes
    checksum: str
    sent_bytes: int | None = None
    ranges: list[str] = field(default_factory=list)
    address: str = ""

    def environment(self, home: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        return {**kept, "HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": "."}


@pytest.fixture
def hub() -> Iterator[Hub]:
    data = bytes(range(256)) * 120_000
    state = Hub(data, hashlib.sha256(data).hexdigest())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(200, 0)

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            state.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            self.answer(206 if asked else 200, start)
            rest = state.data[start:]
            if state.sent_bytes is not None and state.sent_bytes < len(rest):
                self.wfile.write(rest[: state.sent_bytes])
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(rest)

        def answer(self, status: int, start: int) -> None:
            if self.path != "/OFA-Sys/chinese-clip-rn50/resolve/main/clip_cn_rn50.pt":
                self.send_error(404)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(state.data) - start))
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.data) - 1}/{len(state.data)}")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{state.checksum}"')
            self.send_header("X-Linked-Etag", f'"{state.checksum}"')
            self.send_header("X-Linked-Size", str(len(state.data)))
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ValueError):
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.address = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()


DOWNLOAD = """
import sys
from pathlib import Path
from services.encoder.checkpoints import find_checkpoint
from services.encoder.errors import ModelError
try:
    print(find_checkpoint("RN50", architecture="", cache=Path(sys.argv[1]), hub="huggingface").fingerprint)
except ModelError as error:
    sys.exit(f"ModelError: {error}")
"""


def download(hub: Hub, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DOWNLOAD, str(cache)],
        capture_output=True,
        text=True,
        check=False,
        env=hub.environment(cache / "home"),
    )


def test_a_download_that_was_cut_off_goes_on(hub: Hub, tmp_path: Path) -> None:
    """The test uses cn_clip's own loader and huggingface_hub."""
    final = tmp_path / "clip_cn_rn50.pt"
    hub.sent_bytes = 12_000_000  # huggingface_hub writes 10 MiB at a time
    cut = download(hub, tmp_path)
    if cut.returncode != 0:  # otherwise the library resumed by itself
        assert "model RN50 is not at" in cut.stderr
        assert "cannot be had from huggingface" in cut.stderr
        assert not final.exists(), "half a file never has the name of a whole one"
        hub.sent_bytes = None
        again = download(hub, tmp_path)
        assert again.returncode == 0, again.stderr
    assert any(asked.startswith("bytes=") and asked != "bytes=0-" for asked in hub.ranges), (
        "it went on where it stopped"
    )
    assert final.read_bytes() == hub.data
    assert (tmp_path / "clip_cn_rn50.pt.sha256").read_text() == f"{hub.checksum}  clip_cn_rn50.pt\n"
    hub.address = "http://127.0.0.1:9"
    assert download(hub, tmp_path).returncode == 0, "what is there needs no hub"


def test_what_is_not_what_the_hub_says_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.checksum = "0" * 64
    refused = download(hub, tmp_path)
    assert refused.returncode != 0
    assert "is damaged or was changed" in refused.stderr
    assert download(hub, tmp_path).returncode != 0, "nor is it taken the next time"


def test_a_hub_that_does_not_have_it_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.address += "/another"
    failed = download(hub, tmp_path)
    assert "model RN50 is not at" in failed.stderr
    assert "set the hub, a mirror (HF_ENDPOINT) or a proxy (HTTPS_PROXY)" in failed.stderr
