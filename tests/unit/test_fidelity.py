"""A precision is taken only if it gives this checkpoint's vectors, and what it gives is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from services.encoder import engine_openvino, references
from services.encoder.checkpoints import Checkpoint, find_checkpoint
from services.encoder.engine import Ids, Pixels, Vectors, unit
from services.encoder.engines import make_engine
from services.encoder.fidelity import (
    TEXTS,
    CosineAgreement,
    Fidelity,
    Reference,
    built_in_images,
    built_in_texts,
    measure,
)
from services.encoder.fidelity import first_faithful as first
from services.encoder.references import reference_of
from services.encoder.settings import EncoderSettings

# How far rounding turns the vectors of a fake engine: a cosine of 1 - ERRORS ** 2 / 2 about.
ERRORS = {"f32": 0.0, "bf16": 0.01, "f16": 0.2}


class FakeEngine:
    """Answers the reference, the first text and the first image of it turned a little in reduced precisions."""

    name = "fake"
    device = "cpu"
    logit_scale = 1.0
    text_batch = image_batch = 8

    def __init__(self, precision: str, reference: Reference, errors: dict[str, float] = ERRORS) -> None:
        self.precision, self.reference, self.error = precision, reference, errors[precision]
        self.next_text = 0

    def encode_texts(self, ids: Ids) -> Vectors:
        found = self.reference.texts[self.next_text : self.next_text + len(ids)]
        self.next_text += len(ids)
        return self.turned(found) if self.next_text == len(ids) else found

    def encode_images(self, pixels: Pixels) -> Vectors:
        return self.turned(self.reference.images)

    def turned(self, vectors: Vectors) -> Vectors:
        aside = np.zeros_like(vectors)
        aside[0, -1] = self.error
        return unit(vectors + aside)


@pytest.fixture(scope="module")
def reference() -> Reference:
    vectors = unit(np.random.default_rng(0).standard_normal((14, 64)).astype(np.float32))
    vectors[:, -1] = 0
    return Reference(unit(vectors[: len(TEXTS)]), unit(vectors[len(TEXTS) :]))


def judged(engine: Any) -> Fidelity:
    return measure(engine, 32, engine.reference)


@pytest.mark.parametrize(
    ("precisions", "errors", "taken"),
    [
        (("bf16", "f32"), ERRORS, "bf16"),
        (("f16", "f32"), ERRORS, "f32"),  # auto: too far for this checkpoint
        (("f16",), ERRORS, "f16"),  # asked for by name: honoured
        (("bf16", "f32"), {**ERRORS, "bf16": math.nan}, "f32"),  # an overflow gives no numbers
    ],
)
def test_the_first_precision_that_is_near_enough_is_taken(
    reference: Reference, precisions: tuple[str, ...], errors: dict[str, float], taken: str
) -> None:
    with capture_logs() as logs:
        engine, fidelity = first(precisions, lambda each: FakeEngine(each, reference, errors), judged)
    assert engine.precision == taken
    far = [each for each in precisions[: precisions.index(taken) + 1] if not errors[each] <= 0.01]
    assert [each["precision"] for each in logs if each["log_level"] == "warning"] == far
    assert fidelity.suffices == (taken not in far)


def test_the_figures_are_least_and_mean(reference: Reference) -> None:
    fidelity = judged(FakeEngine("f16", reference))
    least = 1 / math.sqrt(1 + 0.2**2)
    for agreement, count in ((fidelity.texts, len(TEXTS)), (fidelity.images, 6)):
        assert agreement.least == pytest.approx(least, abs=1e-6)
        assert agreement.mean == pytest.approx((least + count - 1) / count, abs=1e-6)
    message = fidelity.to_message()
    assert (message.texts.least_cosine, message.images.mean_cosine) == (fidelity.texts.least, fidelity.images.mean)
    assert not Fidelity(CosineAgreement(1.0, 1.0), CosineAgreement(0.9989, 1.0)).suffices


def test_built_in_inputs_differ() -> None:
    images = built_in_images(64)
    assert images.shape == (6, 3, 64, 64)
    assert images.std(axis=(1, 2, 3)).min() > 10
    assert len({image.tobytes() for image in images}) == 6
    lengths = {ids.shape[1] for ids in built_in_texts()}
    assert {4, 52} <= lengths
    assert len(lengths) >= 6


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return find_checkpoint("demo", architecture="", cache=Path("/nonexistent"), hub="huggingface")


@pytest.fixture(scope="module")
def kept(demo: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has the reference."""
    folder = tmp_path_factory.mktemp("kept")
    reference_of(demo, folder)
    return folder


def test_the_reference_is_computed_once_and_kept(
    demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reference_of(demo, tmp_path / "new")
    [kept] = (tmp_path / "new").iterdir()
    for vectors in (made.texts, made.images):
        cosines = vectors @ vectors.T
        assert cosines[~np.eye(len(vectors), dtype=bool)].max() < 0.99, "inputs that differ have vectors that differ"
    blocked = tmp_path / "file"
    blocked.touch()
    assert (reference_of(demo, blocked / "cache").texts == made.texts).all(), "a cache that fails is done without"
    kept.write_bytes(kept.read_bytes()[:-100])
    assert (reference_of(demo, tmp_path / "new").images == made.images).all(), "a damaged file is made again"
    monkeypatch.setattr(references, "_computed", None)
    assert (reference_of(demo, tmp_path / "new").texts == made.texts).all()


@pytest.mark.parametrize(("asked", "taken"), [("auto", "f32"), ("bf16", "bf16")])
def test_auto_gives_up_bf16_for_a_checkpoint_that_it_changes(
    demo: Checkpoint, kept: Path, monkeypatch: pytest.MonkeyPatch, asked: Any, taken: str
) -> None:
    """On a processor that is faster in bf16; this test's engine is none."""
    far = {**ERRORS, "bf16": 0.2}
    monkeypatch.setattr(engine_openvino, "fastest_precisions", lambda threads: ("bf16", "f32"))
    monkeypatch.setattr(
        engine_openvino,
        "OpenVinoEngine",
        lambda checkpoint, precision, threads, cache: FakeEngine(precision, reference_of(checkpoint, cache), far),
    )
    settings = EncoderSettings(engine="openvino", precision=asked, compiled_cache=kept)
    engine, fidelity = make_engine(demo, settings)
    assert engine.precision == taken
    assert fidelity.suffices == (taken == "f32")


def test_torch_in_f32_is_faithful(demo: Checkpoint, kept: Path) -> None:
    settings = EncoderSettings(engine="torch", device="cpu", compiled_cache=kept)
    _, fidelity = make_engine(demo, settings)
    assert min(fidelity.texts.least, fidelity.images.least) > 0.99999
    assert max(fidelity.texts.mean, fidelity.images.mean) <= 1


def test_a_converted_model_of_the_version_before_is_still_used(demo: Checkpoint) -> None:
    """Its towers are the same: texts alone are prepared in another way."""
    assert demo.fingerprint.preprocessing_version == 2
    assert demo.fingerprint.images_version == 1
