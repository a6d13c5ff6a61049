"""The files of a snapshot: what is written is read again as it was."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gateway.maintenance.snapshots import layout
from protos import retriever_pb2, types_pb2
from services.common.errors import InvalidField
from services.common.image_formats import FORMATS, ending_for

MODEL = types_pb2.ModelFingerprint(name="m", dim=3, checkpoint_sha256="a" * 64, preprocessing_version=2)
COLLECTION = retriever_pb2.VectorCollection(
    collection="c",
    model=MODEL,
    metric=types_pb2.METRIC_COSINE,
    index=types_pb2.IndexSpec(type=types_pb2.INDEX_TYPE_FLAT),
    description="一",
    precision="bf16",
    strict_precision=True,
    fidelity=types_pb2.ModelFidelity(texts=types_pb2.CosineAgreement(least_cosine=0.5, mean_cosine=0.75)),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=30)
@given(
    st.text(min_size=1, max_size=9),
    st.lists(floats, min_size=3, max_size=3),
    st.dictionaries(st.text(max_size=4), json_values, max_size=4),
    st.integers(0, 2**41),
)
def test_a_row_gives_its_record_back_through_a_file(
    image_id: str, values: list[float], attributes: dict[str, Any], milliseconds: int
) -> None:
    given_attributes = struct_pb2.Struct()
    given_attributes.update(attributes)
    record = retriever_pb2.VectorRecord(
        image_id=image_id,
        embedding=types_pb2.Embedding(values=values),
        attributes=given_attributes,
        content_sha256="b" * 64,
    )
    info = types_pb2.ImageInfo(
        image_id=image_id, sha256="c" * 64, media_type="image/png", width=1, height=2, size_bytes=2**40
    )
    info.create_time.FromMilliseconds(milliseconds)
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([layout.row(record, info)], schema=layout.schema(3)), file)
    [found] = parquet.read_table(file).to_pylist()
    assert layout.record(found) == record
    assert np.array_equal(found["embedding"], np.array(values, np.float32))
    assert [found[name] for name in ("sha256", "media_type", "width", "height", "size_bytes")] == [
        info.sha256,
        info.media_type,
        info.width,
        info.height,
        info.size_bytes,
    ]
    assert round(found["create_time"].timestamp() * 1000) == milliseconds


def test_settings_make_the_same_collection_under_another_name() -> None:
    found = layout.creation("d", layout.settings(COLLECTION))
    assert found.collection == "d"
    for name in ("model", "metric", "index", "description", "precision", "strict_precision", "fidelity"):
        assert getattr(found, name) == getattr(COLLECTION, name), name


def test_settings_of_a_snapshot_that_is_older_than_precisions_are_taken() -> None:
    old = layout.settings(COLLECTION)
    for name in ("precision", "strict_precision", "fidelity"):
        del old[name]
    found = layout.creation("d", old)
    assert (found.precision, found.strict_precision) == ("", False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, "must be that of a snapshot of version 1"),
        ({"model": {"name": "m"}}, "is damaged"),
        ({"model": None}, "is damaged"),
        ({"metric": "METRIC_OTHER"}, "is damaged"),
        ({"index": {"no field": 1}}, "is damaged"),
        ({"description": 3}, "is damaged"),
    ],
)
def test_settings_that_are_not_those_of_a_snapshot(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidField, match=rf"^part\.chunk: settings\.json .*{problem}"):
        layout.creation("d", layout.settings(COLLECTION) | change)
    with pytest.raises(InvalidField):
        layout.creation("d", [])


def test_names_of_files() -> None:
    for pattern, good, bad in (
        (layout.VECTORS, "vectors-00000.parquet", "vectors-1.parquet"),
        (layout.IMAGES, "images-123456.tar", "../images-00000.tar"),
        (layout.MEMBER, "a" * 64 + ".jpg", "a" * 63 + ".jpg"),
    ):
        assert pattern.fullmatch(good)
        assert not pattern.fullmatch(bad)
    assert all(layout.MEMBER.fullmatch("0" * 64 + ending_for(form.media_type)) for form in FORMATS)
