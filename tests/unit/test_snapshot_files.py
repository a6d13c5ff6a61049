"""A snapshot's files as they come from elsewhere: damaged, or made to do harm."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateway.maintenance.snapshots import layout
from gateway.maintenance.snapshots import snapshot_files as reading
from gateway.maintenance.snapshots.snapshot_exporter import members, parquet
from protos import imagestore_pb2, retriever_pb2, types_pb2
from services.common.errors import Code, InvalidField, WentuError

DIM = 8
NAME = "vectors-00000.parquet"
TAR = "images-00000.tar"
SETTINGS = {
    "version": 1,
    "model": {"name": "demo", "dim": DIM, "checkpoint_sha256": "0" * 64, "preprocessing_version": 1},
    "metric": "METRIC_COSINE",
    "index": {"type": "INDEX_TYPE_FLAT"},
    "description": "a 描述",
}


def small() -> tuple[bytes, bytes]:
    """A Parquet file and a tar file of 12 images, as they are exported."""
    rng = np.random.default_rng(5)
    rows, blobs = [], []
    for number in range(12):
        data = rng.bytes(40 + 100 * number)
        sha256 = hashlib.sha256(data).hexdigest()
        record = retriever_pb2.VectorRecord(image_id=f"图 {number}", content_sha256=sha256)
        record.embedding.values.extend(rng.normal(size=DIM))
        record.attributes.update({"number": number, "标签": ["红", None, {"deep": True}]})
        info = types_pb2.ImageInfo(
            image_id=record.image_id, sha256=sha256, media_type="image/png", size_bytes=len(data)
        )
        rows.append(layout.row(record, info))
        blobs.append(imagestore_pb2.Blob(info=info, data=data))
    return parquet(rows, DIM), b"".join(members(blobs)) + bytes(1024)


def rows_of(data: bytes) -> list[dict[str, Any]]:
    rows = reading.read_rows(io.BytesIO(data), NAME, DIM)
    return [rows.row(*at) for places in rows.by_content.values() for at in places]


def contents_of(data: bytes) -> dict[str, bytes]:
    return dict(reading.contents(io.BytesIO(data), TAR, 1 << 20))


def settings_of(data: bytes) -> retriever_pb2.CreateVectorCollectionRequest:
    return reading.read_settings(io.BytesIO(data), "c")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` with a bit turned, a stretch lost, repeated, exchanged or overwritten, or its end cut off."""
    at, to = sorted(rng.sample(range(len(data)), 2))
    match rng.randrange(6):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[min(to, at + 40) :]
        case 2:
            return data[:at] + data[at : at + 40] + data[at:]
        case 3:
            return data[:at] + data[to:] + data[at:to]
        case 4:
            return data[:at] + rng.randbytes(min(4, to - at)) + data[at + min(4, to - at) :]
        case _:
            return data[:at]


@pytest.mark.parametrize("file", [NAME, TAR])
def test_damage_is_told_by_the_file_s_name(file: str) -> None:
    table, tar = small()
    parse: Callable[[bytes], Any] = rows_of if file == NAME else contents_of
    data = table if file == NAME else tar
    whole: Any = parse(data)
    rng = random.Random(11)
    problems = []
    for _ in range(400):
        try:
            found: Any = parse(damaged(data, rng))
        except WentuError as error:
            problems.append((error.code, file in error.message))
        else:
            if file == NAME:
                assert found == whole
            else:  # what is missing is told by the rows; what is there must be right
                assert found.items() <= whole.items()
    assert len(problems) > 200
    assert set(problems) == {(Code.INVALID_ARGUMENT, True)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"1" * 60_000,
        b"NaN",
        json.dumps({**SETTINGS, "model": None}).encode(),
        json.dumps({**SETTINGS, "model": [1]}).encode(),
        json.dumps({**SETTINGS, "model": {**SETTINGS["model"], "dim": 1e300}}).encode(),  # type: ignore[dict-item]
        json.dumps({**SETTINGS, "model": {**SETTINGS["model"], "dim": -1}}).encode(),  # type: ignore[dict-item]
        json.dumps({**SETTINGS, "model": {**SETTINGS["model"], "name": float("nan")}}).encode(),  # type: ignore[dict-item]
        json.dumps({**SETTINGS, "metric": {"a": 1}}).encode(),
        json.dumps({**SETTINGS, "index": [[[]]]}).encode(),
        json.dumps({**SETTINGS, "index": {"type": [1], "no": 1}}).encode(),
        json.dumps({**SETTINGS, "description": 7}).encode(),
        json.dumps({**SETTINGS, "description": "\ud800"}).encode(),
        json.dumps({**SETTINGS, "version": [1]}).encode(),
        json.dumps(SETTINGS).replace('"metric"', '"version": 2, "metric"').encode(),
    ],
)
def test_settings_that_are_none(data: bytes) -> None:
    with pytest.raises(InvalidField, match=r"settings\.json"):
        settings_of(data)


def test_settings_with_mistakes_never_escape() -> None:
    good = json.dumps(SETTINGS, ensure_ascii=False, indent=2).encode()
    assert settings_of(good).description == "a 描述"
    rng = random.Random(3)
    for _ in range(500):
        try:
            settings_of(damaged(good, rng))
        except InvalidField as error:
            assert "settings.json" in error.message  # noqa: PT017  # it need not be refused


def bomb(**columns: Callable[[int], pa.Array]) -> bytes:
    """A Parquet file of 2,000 rows with columns of others' making."""
    count = 2000
    table, _ = small()
    [first] = pq.read_table(io.BytesIO(table)).slice(0, 1).to_pylist()
    schema = layout.schema(DIM)
    arrays = [
        columns[field.name](count) if field.name in columns else pa.array([first[field.name]] * count, field.type)
        for field in schema
    ]
    file = io.BytesIO()
    fields = [pa.field(field.name, array.type, nullable=False) for field, array in zip(schema, arrays, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), file, compression="zstd")
    return file.getvalue()


def repeated(value: str) -> Callable[[int], pa.Array]:
    return lambda count: pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def test_a_small_file_cannot_unpack_to_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 8 << 20)
    cases = {
        "attributes has a value of 600,002 bytes": bomb(attributes=repeated(json.dumps("x" * 600_000))),
        "unpacks to": bomb(attributes=repeated(json.dumps({"x": "x" * 60_000}))),
        "unpacks to 20,0": bomb(media_type=repeated("x" * 20_000_000)),
        "image_id has a value": bomb(image_id=repeated("x" * 256)),
    }
    most = pa.default_memory_pool().max_memory()
    for message, data in cases.items():
        assert len(data) < 100_000, message
        with pytest.raises(InvalidField, match=message) as caught:
            rows_of(data)
        assert NAME in caught.value.message
    assert pa.default_memory_pool().max_memory() < most + (16 << 20)


def test_headers_of_tar_are_bounded() -> None:
    large = tarfile.TarInfo("x")
    large.type, large.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(InvalidField, match=TAR):
        contents_of(large.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16))
    file = io.BytesIO()
    data = b"bytes"
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:  # as others write them
        member = tarfile.TarInfo(hashlib.sha256(data).hexdigest() + ".png")
        member.size, member.mtime = len(data), 1.5
        archive.addfile(member, io.BytesIO(data))
    assert list(contents_of(file.getvalue()).values()) == [data]
