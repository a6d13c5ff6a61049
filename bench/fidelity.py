"""Fidelity of models in each precision that this processor has, and what measuring it costs at a start.

python -m bench.fidelity FOLDER: random full-size checkpoints of RN50 and ViT-B-16 are made and converted there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import openvino as ov

from services.encoder.checkpoints import find_checkpoint
from services.encoder.engine_openvino import OpenVinoEngine, can_compute
from services.encoder.fidelity import measure
from services.encoder.references import reference_of
from services.encoder.settings import EncoderSettings
from tests.support.checkpoints import save_random


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    threads = EncoderSettings().threads
    for name in ("demo", "RN50", "ViT-B-16"):
        model, architecture = name, ""
        if name != "demo":
            path = folder / f"{name}.pt"
            model, architecture = str(path if path.exists() else save_random(folder, name)), name
        checkpoint = find_checkpoint(model, architecture=architecture, cache=folder, hub="huggingface")
        OpenVinoEngine(checkpoint, "f32", threads, folder)  # the first call converts the model
        for precision in ("f32", "bf16", "f16"):
            if not can_compute(ov.Core(), precision):
                print(f"{name} {precision}: this processor does not compute in it")
                continue
            started, busy = time.perf_counter(), time.process_time()
            engine = OpenVinoEngine(checkpoint, precision, threads, folder)
            made, made_busy = time.perf_counter(), time.process_time()
            fidelity = measure(engine, checkpoint.image_resolution, reference_of(checkpoint, folder))
            checked, checked_busy = time.perf_counter(), time.process_time()
            print(f"{name} {precision}: {fidelity.figures()}")
            print(f"  start {made - started:.2f} s ({made_busy - busy:.2f} s of CPU)")
            print(f"  check {checked - made:.2f} s ({checked_busy - made_busy:.2f} s of CPU)")


if __name__ == "__main__":
    main()
