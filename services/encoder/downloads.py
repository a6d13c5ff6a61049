"""Downloads checkpoints by name with cn_clip's own loader, and keeps the checksum of each beside it.

The hubs' libraries, which cn_clip calls, resume interrupted transfers, write under a temporary name until the file is
complete, and read proxies and mirrors from the environment (HTTPS_PROXY, HF_ENDPOINT).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import structlog

from services.encoder.errors import ModelError

log = structlog.get_logger()

Hub = Literal["huggingface", "modelscope"]
PROGRESS_SECONDS = 5.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


def download(name: str, path: Path, hub: Hub) -> None:
    """Fetches the checkpoint of one of cn_clip's names to `path`. Raises ModelError."""
    log.info("download", model=name, hub=hub, to=str(path))
    try:
        from services.encoder.cn_clip_import import download as cn_clip_download

        path.parent.mkdir(parents=True, exist_ok=True)
        with _progress(path):
            cn_clip_download(name, str(path.parent), use_modelscope=hub == "modelscope")
    except Exception as error:  # the hubs' libraries raise many kinds of errors
        raise ModelError(
            f"model {name} is not at {path} and cannot be had from {hub}: {error}. "
            "Lay the file there by hand, or set the hub, a mirror (HF_ENDPOINT) or a proxy (HTTPS_PROXY)"
        ) from error


def verify(path: Path, sha256: str, *, downloaded: bool) -> None:
    """Compare a checkpoint with the checksum beside it, or with the hub's, and store the checksum of a download.

    Raises ModelError if they differ. The checksum file has the format of `sha256sum --check`.
    """
    record = path.with_name(f"{path.name}.sha256")
    known = record.read_text().split()[0].lower() if record.is_file() else _hubs_sha256(path)
    if known and known != sha256:
        raise ModelError(f"{path} is damaged or was changed: its sha256 is {sha256} and was to be {known}; remove it")
    if downloaded:
        new = record.with_name(f"{record.name}.{os.getpid()}")
        new.write_text(f"{sha256}  {path.name}\n")
        os.replace(new, record)


def _hubs_sha256(path: Path) -> str:
    """The SHA-256 that Hugging Face states for a file: huggingface_hub keeps it as the ETag of large files."""
    kept = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    lines = kept.read_text().split() if kept.is_file() else []
    return next((line for line in lines if _SHA256.fullmatch(line)), "")


@contextmanager
def _progress(path: Path) -> Iterator[None]:
    """Log the downloaded size every few seconds. All hubs write below the checkpoint's folder."""
    done = threading.Event()
    before = _size(path.parent)

    def watch() -> None:
        while not done.wait(PROGRESS_SECONDS):
            log.info("download", file=path.name, received_bytes=_size(path.parent) - before)

    watcher = threading.Thread(target=watch, name="download-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _size(folder: Path) -> int:
    total = 0
    for each in folder.rglob("*"):
        try:
            total += each.stat().st_size
        except OSError:  # renamed or removed meanwhile
            continue
    return total
