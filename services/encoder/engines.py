"""Chooses the engine and its precision."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence

from services.encoder.checkpoints import Checkpoint
from services.encoder.engine import Engine
from services.encoder.errors import ModelError
from services.encoder.fidelity import Fidelity, first_faithful, measure
from services.encoder.references import reference_of
from services.encoder.settings import EncoderSettings


def make_engine(checkpoint: Checkpoint, settings: EncoderSettings) -> tuple[Engine, Fidelity]:
    """The engine that the settings name, or the best one for this machine, and its fidelity to cn_clip's vectors.

    torch is imported only if it is the engine.
    """
    precisions, make = _choice(checkpoint, settings)

    def judge(engine: Engine) -> Fidelity:
        # Done after the engine is made, since the conversion of the model stores the reference in the cache.
        reference = reference_of(checkpoint, settings.compiled_cache.expanduser())
        return measure(engine, checkpoint.image_resolution, reference)

    return first_faithful(precisions, make, judge)


def _choice(checkpoint: Checkpoint, settings: EncoderSettings) -> tuple[Sequence[str], Callable[[str], Engine]]:
    """The precisions to try, the preferred one first, and what makes an engine in one of them."""
    asked = settings.precision
    if settings.engine == "openvino" or (settings.engine == "auto" and not _has_cuda(settings.device)):
        if importlib.util.find_spec("openvino") is not None:
            from services.encoder.engine_openvino import OpenVinoEngine, fastest_precisions

            cache = settings.compiled_cache.expanduser()
            precisions = fastest_precisions(settings.threads) if asked == "auto" else (asked,)
            return precisions, lambda precision: OpenVinoEngine(checkpoint, precision, settings.threads, cache)
        if settings.engine == "openvino":
            raise ModelError("openvino is not installed: pip install '.[encoder]'")
    from services.encoder.engine_torch import TorchEngine

    device = settings.device
    if device == "auto":
        device = "cuda" if _has_cuda(device) else "cpu"
    on_cuda = device.startswith("cuda")
    if not on_cuda and asked not in ("auto", "f32"):
        raise ModelError(f"precision {asked}: torch computes in it on CUDA alone; on a CPU take f32, or openvino")
    precisions = (asked,) if asked != "auto" else ("f16", "f32") if on_cuda else ("f32",)
    return precisions, lambda precision: TorchEngine(checkpoint, device, precision, settings.threads)


def _has_cuda(device: str) -> bool:
    """Whether `device` is CUDA. For 'auto', torch is asked if there is a CUDA device."""
    if device != "auto" or importlib.metadata.version("torch").endswith("+cpu"):
        return device.startswith("cuda")
    import torch

    return torch.cuda.is_available()
