"""cn_clip's own vectors of the built-in inputs, computed once and kept beside the converted model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from services.encoder.checkpoints import Checkpoint
from services.encoder.engine import unit
from services.encoder.fidelity import Reference, built_in_images, built_in_texts


def reference_of(checkpoint: Checkpoint, cache: Path, module: Any = None) -> Reference:
    """The reference vectors, read from the folder `cache`, or computed and stored there.

    They are computed by `module`, if it is given. If the cache cannot be used, nothing is stored.
    """
    path = cache / f"{checkpoint.fingerprint.checkpoint_sha256}-{_inputs_digest(checkpoint)}-reference.npz"
    with (
        contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
        path.open("rb") as file,
        np.load(file) as kept,
    ):
        return Reference(kept["texts"], kept["images"])
    made = _computed(checkpoint, module)
    with contextlib.suppress(OSError):
        _save(made, path)
    return made


def _inputs_digest(checkpoint: Checkpoint) -> str:
    """The file name contains a checksum of the inputs, since other inputs have another reference."""
    digest = hashlib.sha256(built_in_images(checkpoint.image_resolution).tobytes())
    for ids in built_in_texts():
        digest.update(ids.tobytes())
    return digest.hexdigest()[:12]


def _computed(checkpoint: Checkpoint, module: Any) -> Reference:
    import torch

    from services.encoder.module import load_module
    from services.encoder.towers import ImageTower, TextTower

    module = module or load_module(checkpoint)
    with torch.inference_mode():
        texts = torch.cat([TextTower(module)(torch.from_numpy(ids)) for ids in built_in_texts()])
        images = ImageTower(module)(torch.from_numpy(built_in_images(checkpoint.image_resolution)))
    return Reference(unit(texts.numpy()), unit(images.numpy()))


def _save(reference: Reference, path: Path) -> None:
    """Write the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.stem}-{os.getpid()}.npz")
    np.savez(new, texts=reference.texts, images=reference.images)
    os.replace(new, path)
