"""A collection is exported to files and imported again, by our tools and by others. Damaged files are refused."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest

from cli.client import Client
from protos import admin_pb2 as admin
from protos import search_pb2 as pb
from protos import types_pb2
from tests.support.images import gallery, noise
from tests.support.system import CALL_SECONDS, System, refusal


@pytest.fixture
def filled(system: System, collection: str) -> str:
    images = {each.image_id: each.data for each in gallery()[:20]}
    system.add(collection, images | {"twin 1": noise(1), "twin 2": noise(1), "../ä b\\'": noise(2)})
    upload = types_pb2.ImageUpload(image_id="with attributes", data=noise(3))
    upload.attributes.update({"标签": ["红", 1.5, None, {"deep": True}], "null": None, "a[%]": "x"})
    system.client.images.AddImage(pb.AddImageRequest(collection=collection, image=upload), timeout=CALL_SECONDS)
    return collection


def contents(client: Client, collection: str) -> dict[str, bytes]:
    """Everything stored about each image, except the time."""
    found = {}
    request = pb.ListImagesRequest(collection=collection, page_size=1000)
    for each in client.images.ListImages(request, timeout=CALL_SECONDS).images:
        each.image.ClearField("create_time")
        found[each.image.image_id] = each.SerializeToString(deterministic=True)
    return found


def test_there_and_back(system: System, filled: str, tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    assert "3 files" in system.cli("snapshot", "export", filled, str(folder))
    assert "exists" in system.cli("snapshot", "export", filled, str(folder), code=1)
    copy = f"{filled}_copy"
    try:
        assert "24 images" in system.cli("snapshot", "import", str(folder), copy)
        assert "already" in system.cli("snapshot", "import", str(folder), copy, code=1)
        text = str(gallery()[0].attributes["captions"][0])
        assert system.search_strong(copy, text) == system.search_strong(filled, text)
        original = contents(system.client, filled)
        assert len(original) == 24
        assert contents(system.client, copy) == original
        assert system.read(copy, "../ä b\\'") == noise(2)
        request = admin.ReconcileRequest(collection=copy, dry_run=True)
        assert [each for each in system.client.admin.Reconcile(request, timeout=CALL_SECONDS) if each.image_id] == []
    finally:
        system.drop(copy)


def test_others_can_read_it(system: System, filled: str, tmp_path: Path) -> None:
    system.cli("snapshot", "export", filled, str(tmp_path / "s"))
    settings = json.loads((tmp_path / "s" / "settings.json").read_text())
    assert (settings["collection"], settings["model"]["name"], settings["version"]) == (filled, "demo", 1)
    rows = {row["image_id"]: row for row in pq.read_table(tmp_path / "s" / "vectors-00000.parquet").to_pylist()}
    assert len(rows) == 24
    assert sum(value * value for value in rows["twin 1"]["embedding"]) == pytest.approx(1, abs=1e-5)
    attributes = {"标签": ["红", 1.5, None, {"deep": True}], "null": None, "a[%]": "x"}
    assert json.loads(rows["with attributes"]["attributes"]) == attributes
    with tarfile.open(tmp_path / "s" / "images-00000.tar") as archive:
        members = archive.getmembers()
        assert len(members) == 23, "the same bytes are in it once"
        for member in members:
            file = archive.extractfile(member)
            assert file is not None
            assert hashlib.sha256(file.read()).hexdigest() == member.name.partition(".")[0]
        assert rows["twin 1"]["sha256"] == rows["twin 2"]["sha256"] == hashlib.sha256(noise(1)).hexdigest()


def strange() -> bytes:
    """A tar whose member would be written outside the target folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../etc/passwd"))
    return file.getvalue()


def parts(system: System, collection: str) -> list[admin.SnapshotChunk]:
    request = admin.ExportSnapshotRequest(collection=collection)
    return [each.part for each in system.client.admin.ExportSnapshot(request, timeout=CALL_SECONDS)]


def refused(system: System, collection: str, chunks: list[admin.SnapshotChunk]) -> tuple[grpc.StatusCode, str]:
    """The status and message of the refused import. The collection must not exist afterwards."""
    requests = iter([admin.ImportSnapshotRequest(collection=collection, part=chunk) for chunk in chunks])
    with pytest.raises(grpc.RpcError) as caught:
        system.client.admin.ImportSnapshot(requests, timeout=CALL_SECONDS)
    found = refusal(caught.value)
    with pytest.raises(grpc.RpcError) as missing:
        system.count(collection)
    assert refusal(missing.value).reason == "COLLECTION_NOT_FOUND"
    return found.code, found.message


@pytest.mark.parametrize("system", ["embedded"], indirect=True)  # a server takes 3 s for each collection
def test_a_snapshot_that_is_not_whole_leaves_nothing(system: System, filled: str) -> None:
    whole = parts(system, filled)
    name = f"{filled}_bad"
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    settings = [each for each in whole if each.file_name == "settings.json"]
    vectors = [each for each in whole if each.file_name.startswith("vectors")]
    images = [each for each in whole if each.file_name.startswith("images")]
    tar = b"".join(each.chunk for each in images)

    def chunk(file_name: str, data: bytes) -> admin.SnapshotChunk:
        return admin.SnapshotChunk(file_name=file_name, chunk=data)

    cases = {
        "must come first": [[], vectors + images, [chunk("", b"")]],
        "is not JSON": [[chunk("settings.json", b"{")]],
        "version 1": [[chunk("settings.json", b'{"version": 2}')]],
        "is damaged": [[chunk("settings.json", b'{"version": 1, "model": {}}')]],
        "settings.json is nested too deep": [[chunk("settings.json", b"[" * 60_000)]],
        "settings.json: model.dim": [[chunk("settings.json", settings[0].chunk.replace(b'"dim": ', b'"dim": 9999'))]],
        "more than 65,536 bytes": [[chunk("settings.json", bytes(70_000))]],
        "not whole": [settings + vectors],
        "is not the file that comes next": [settings + images, settings + vectors + vectors[:0] + settings],
        "vectors-00000.parquet is damaged": [[*settings, chunk("vectors-00000.parquet", b"PAR1")]],
        "images-00000.tar: ends in the middle": [[*settings, *vectors, chunk("images-00000.tar", tar[:700])]],
        "are missing": [[*settings, *vectors, chunk("images-00000.tar", bytes(1024))]],
        "is not a member": [[*settings, *vectors, chunk("images-00000.tar", strange())]],
        "are not those of its name": [[*settings, *vectors, chunk("images-00000.tar", tar[:512] + b"!" + tar[513:])]],
    }
    for message, tries in cases.items():
        for chunks in tries:
            code, said = refused(system, name, chunks)
            assert (code, message in said) == (invalid, True), (message, code, said)
