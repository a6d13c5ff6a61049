"""Models, versions and precisions: which vectors are taken for which collection, and what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from gateway.maintenance.snapshots.layout import creation, settings
from gateway.metrics import GatewayMetrics
from gateway.precision import PrecisionNotes
from protos import retriever_pb2, types_pb2
from protos import search_pb2 as pb
from services.common.errors import InvalidField, ModelMismatch, PrecisionMismatch
from services.common.fingerprint import Fingerprint, check_precision, check_same_precision
from services.encoder.checkpoints import PREPROCESSING_VERSION
from services.retriever.catalog import Catalog
from services.retriever.records import UNKNOWN, Index, Metric, Precision, VectorCollection

MODEL = Fingerprint("m", 4, "a" * 64, PREPROCESSING_VERSION)
STRICT = Precision("f32", strict=True, fidelity={"texts": {"least_cosine": 0.99, "mean_cosine": 1.0}})


def test_versions_with_the_same_vectors_of_images_fit() -> None:
    """A collection of the version before, in which texts alone were prepared in another way, stays usable."""
    before = replace(MODEL, preprocessing_version=1)
    assert before != MODEL
    assert MODEL.fits(before)
    assert before.fits(MODEL)
    for other in (
        replace(MODEL, preprocessing_version=99),
        replace(MODEL, checkpoint_sha256="b" * 64),
        replace(MODEL, dim=5),
        replace(MODEL, name="n"),
    ):
        assert not MODEL.fits(other)
        assert not other.fits(MODEL)


def collection(precision: Precision = UNKNOWN, version: int = PREPROCESSING_VERSION) -> VectorCollection:
    return VectorCollection(
        "holiday",
        replace(MODEL, preprocessing_version=version),
        Metric.INNER_PRODUCT,
        Index("FLAT"),
        precision=precision,
    )


def test_settings_are_kept_and_those_of_before_are_read() -> None:
    made = collection(STRICT)
    assert VectorCollection.from_json("holiday", "", made.to_json()).precision == STRICT
    old = made.to_json()
    del old["precision"]
    assert VectorCollection.from_json("holiday", "", old).precision == UNKNOWN


async def test_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(None)  # type: ignore[arg-type]
    found = collection(STRICT, version=1)

    async def get(collection: str) -> VectorCollection:
        return found

    monkeypatch.setattr(catalog, "get", get)
    monkeypatch.setattr(catalog, "fresh", get)
    for precision in ("", "f32"):
        assert await catalog.guarded("holiday", MODEL, precision=precision) is found
    with pytest.raises(PrecisionMismatch, match="takes vectors in f32 alone, and these are in bf16") as refused:
        await catalog.guarded("holiday", MODEL, precision="bf16")
    assert refused.value.metadata == {"collection_precision": "f32", "request_precision": "bf16"}
    with pytest.raises(ModelMismatch):
        await catalog.guarded("holiday", replace(MODEL, checkpoint_sha256="b" * 64))
    following = replace(found, model=replace(MODEL, name="next"), precision=replace(STRICT, name="bf16"))
    found = replace(found, rebuild=following)
    assert await catalog.guarded("holiday", following.model, writing=True, precision="bf16") is following
    with pytest.raises(PrecisionMismatch):
        await catalog.guarded("holiday", following.model, writing=True, precision="f32")
    found = collection(replace(STRICT, strict=False))
    assert await catalog.guarded("holiday", MODEL, precision="bf16") is found


def test_only_precisions_that_exist() -> None:
    for name in ("", "f32", "bf16", "f16"):
        assert check_precision(name) == name
    with pytest.raises(InvalidField, match="precision: must be one of f32, bf16, f16, got 'fp32'"):
        check_precision("fp32")


@pytest.mark.parametrize(
    ("own", "other", "differ"), [("f32", "bf16", True), ("f32", "f32", False), ("", "bf16", False), ("f32", "", False)]
)
def test_another_precision_is_noted_counted_or_refused(own: str, other: str, differ: bool) -> None:
    registry = CollectorRegistry()
    notes = PrecisionNotes(GatewayMetrics(registry))
    wanted = [pb.NOTE_PRECISION_MISMATCH] if differ else []
    assert notes.of(own, other, "search") == wanted
    if differ:
        with pytest.raises(PrecisionMismatch), notes.counting("import", 3):
            check_same_precision("holiday", own, other)
    else:
        check_same_precision("holiday", own, other)
    counted = [
        registry.get_sample_value("wentu_gateway_precision_mismatches_total", {"operation": each}) or 0
        for each in ("search", "import")
    ]
    assert counted == ([1, 3] if differ else [0, 0])


def test_a_snapshot_keeps_the_precision_and_one_of_before_is_read() -> None:
    found = retriever_pb2.VectorCollection(
        collection="holiday",
        model=MODEL.to_message(),
        metric=types_pb2.METRIC_INNER_PRODUCT,
        precision="bf16",
        strict_precision=True,
        fidelity=types_pb2.ModelFidelity(texts=types_pb2.CosineAgreement(least_cosine=0.5, mean_cosine=0.75)),
    )
    kept = settings(found)
    made = creation("new", kept)
    assert (made.precision, made.strict_precision, made.fidelity) == ("bf16", True, found.fidelity)
    for name in ("precision", "strict_precision", "fidelity"):
        del kept[name]
    assert creation("new", kept).precision == ""
