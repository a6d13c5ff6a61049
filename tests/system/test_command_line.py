"""The `wentu` commands as people type them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

import pytest
from PIL import Image

from tests.support.images import gallery, noise
from tests.support.servers import free_ports
from tests.support.system import System


@pytest.fixture
def name(embedded: System) -> str:
    return f"c{uuid.uuid4().hex[:12]}"


def test_import_a_folder_search_and_delete(embedded: System, name: str, tmp_path: Path) -> None:
    (tmp_path / "动物").mkdir()
    for image in gallery()[:20]:
        (tmp_path / "动物" / f"{image.image_id}.webp").write_bytes(image.data)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    printed = embedded.cli("import", str(tmp_path), "-c", name, code=1)
    assert "broken.jpg: image.data: is not an image of a known format" in printed
    assert "1 passed over: 1 .txt" in printed
    assert "20 added, 1 failed" in printed
    logged = [json.loads(line) for line in (embedded.data / "logs/gateway.log").read_text().splitlines()]
    [failed] = [entry for entry in logged if entry["event"] == "image failed" and entry["collection"] == name]
    assert (failed["image_id"], failed["reason"]) == ("broken.jpg", "UNREADABLE_IMAGE")
    (tmp_path / "broken.jpg").unlink()
    assert "20 skipped" in embedded.cli("import", str(tmp_path), "-c", name)
    assert "20 replaced" in embedded.cli("import", str(tmp_path), "-c", name, "--if-exists", "replace")

    sheet = tmp_path / "sheet.png"
    answer = json.loads(embedded.cli("search", "注册", "-c", name, "-k", "7", "--json"))
    assert len(answer["hits"]) == 7
    assert answer["hits"][0]["imageId"].startswith("动物/")
    table = embedded.cli("search", "注册", "-c", name, "-k", "7", "--sheet", str(sheet))
    with Image.open(sheet) as drawn:
        assert drawn.size[0] > 500
    assert answer["hits"][0]["imageId"] in table
    assert f"{answer['hits'][0]['score']:.4f}" in table
    for path, says in ((tmp_path, "is a folder; name an image file"), (tmp_path / "a.txt", "unknown file extension")):
        printed = embedded.cli("search", "注册", "-c", name, "--sheet", str(path), code=1)
        assert answer["hits"][0]["imageId"] in printed
        assert says in printed

    first = answer["hits"][0]["imageId"]
    assert f"{first}: deleted" in embedded.cli("delete", first, "-c", name)
    assert f"{first}: was not there" in embedded.cli("delete", first, "-c", name)
    assert f"deleted {name} with 19 images" in embedded.cli("collections", "delete", name, "--yes")


def test_import_a_tar(embedded: System, name: str, tmp_path: Path) -> None:
    for place in range(3):
        (tmp_path / f"{place}.png").write_bytes(noise(place))
    (tmp_path / "readme.txt").write_text("no image")
    archive = tmp_path / "images.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path, arcname=".", filter=lambda member: None if member.name.endswith("gz") else member)
    assert "3 added" in embedded.cli("import", str(archive), "-c", name)
    assert embedded.read(name, "1.png") == noise(1)
    embedded.drop(name)


def test_import_chinese_clip_files(embedded: System, name: str, tmp_path: Path) -> None:
    lines = Path("demo/gallery/demo_imgs.tsv").read_text().splitlines()[:10]
    (tmp_path / "test_imgs.tsv").write_text("\n".join([*lines, "11\t!!no base64!!"]) + "\n")
    captions = Path("demo/gallery/demo_texts.jsonl").read_text().splitlines()[:10]
    (tmp_path / "test_texts.jsonl").write_text("\n".join(captions))
    printed = embedded.cli("import", str(tmp_path), "-c", name, code=1)
    assert "10 added, 1 failed" in printed
    assert "test_imgs.tsv, line 11: the second column is not base64" in printed
    assert json.loads(captions[0])["text"] in embedded.cli("search", "版权", "-c", name)
    embedded.drop(name)


def test_mistakes_end_with_one_line(embedded: System, tmp_path: Path) -> None:
    assert "there is nothing at" in embedded.cli("import", str(tmp_path / "nowhere"), code=1)
    assert "NOT_FOUND: there is no collection 'nothere'" in embedded.cli("search", "猫", "-c", "nothere", code=1)
    nobody = System(tmp_path, free_ports(1), ())
    assert "no gateway answers" in nobody.cli("status", code=1)


def test_similarity(embedded: System, tmp_path: Path) -> None:
    image = tmp_path / "melon.webp"
    image.write_bytes(next(image.data for image in gallery() if image.attributes["captions"] == ["西瓜"]))
    results = json.loads(embedded.cli("similarity", str(image), "西瓜", "笑脸", "--json"))["results"]
    assert results[0]["probability"] > results[1]["probability"]
    assert "西瓜" in embedded.cli("similarity", str(image), "西瓜", "笑脸")


def test_status_and_collections(embedded: System, name: str) -> None:
    embedded.cli("collections", "create", name, "--description", "说明", "--index", "flat")
    assert f"{name}  demo  说明" in embedded.cli("collections", "list")
    assert json.loads(embedded.cli("collections", "show", name))["index"]["type"] == "INDEX_TYPE_FLAT"
    printed = embedded.cli("status")
    for word in ("gateway", "encoder", "retriever", "imagestore", "serving", "milvus-lite", "sqlite"):
        assert word in printed
    embedded.drop(name)


def test_settings_name_their_mistakes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.encoder", "--max-texts", "0"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "WENTU_ENCODER_PORT": "99999"},
    )
    assert done.returncode == 2
    assert "--max-texts (WENTU_ENCODER_MAX_TEXTS): Input should be greater than or equal to 1" in done.stderr
    assert "--port (WENTU_ENCODER_PORT): Input should be less than or equal to 65535" in done.stderr
