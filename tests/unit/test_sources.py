"""Readers of datasets: files as people write them, damage, and names in any encoding."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from cli.sources import Item, Source, SourceError, SourceFailure, SourceImage, open_source
from cli.sources.ids import IdRule, Misreadings, identified
from tests.support.images import drawn, encoded

PNG = encoded(drawn(16, 12))
BASE64 = base64.b64encode(PNG).decode()


def images(items: Iterable[Item]) -> dict[str, bytes]:
    return {item.image_id: item.data for item in items if isinstance(item, SourceImage)}


def failures(items: Iterable[Item]) -> list[SourceFailure]:
    return [item for item in items if isinstance(item, SourceFailure)]


def dataset(folder: Path, rows: bytes, texts: bytes | None = None, encoding: str = "") -> list[Item]:
    folder.mkdir(exist_ok=True)
    (folder / "train_imgs.tsv").write_bytes(rows)
    if texts is not None:
        (folder / "train_texts.jsonl").write_bytes(texts)
    return list(identified(open_source(folder, encoding), IdRule.PATH, encoding))


def captions(items: Iterable[Item]) -> dict[str, list[str]]:
    return {item.image_id: item.attributes.get("captions", []) for item in items if isinstance(item, SourceImage)}


@pytest.mark.parametrize(
    "rows",
    [
        f"1\t{BASE64}\n",
        f"\ufeff1\t{BASE64}\n",
        f"1\t{BASE64}\r\n\r\n",
        f"\n  \n1\t{BASE64}  ",
        f"1\t{base64.urlsafe_b64encode(PNG).decode()}\n",
        f"1\t{BASE64.rstrip('=')}\n",
        f"1\tdata:image/png;base64,{BASE64}\n",
        f"1\tb'{BASE64}'\n",
        f'1\t"{BASE64}"\n',
    ],
)
def test_rows_that_are_read(tmp_path: Path, rows: str) -> None:
    items = dataset(tmp_path, rows.encode())
    assert images(items) == {"1": PNG}
    assert not failures(items)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"2    {BASE64}".encode(), "has no tab"),
        (f"2\t{BASE64}\t第三列".encode(), "has 3 columns"),
        (f"2\t{BASE64}\t".encode() + b"\xe9", "has 3 columns"),
        (b"2\t!!no base64!!", "is not base64"),
        (b"\t" + BASE64.encode(), "has no tab between two columns"),
        (f"a\0b\t{BASE64}".encode(), "must not contain control characters"),
        (f"a\rb\t{BASE64}".encode(), "must not contain control characters"),
        (f"{'x' * 10_000}\t{BASE64}".encode(), "must be 1 to 255 bytes of UTF-8, got 10000"),
        (b"x" * 10_000, "has no tab between two columns"),
        (f"海边\t{BASE64}".encode("gbk"), "not UTF-8; if it is GBK, --encoding gbk"),
        (f"1\t{BASE64}".encode(), "came before in this import; nothing of this one was imported; --id sha256"),
        (f"{'图' * 86}\t{BASE64}".encode(), "must be 1 to 255 bytes of UTF-8, got 258; --id stem or --id sha256"),
    ],
)
def test_a_row_fails_alone_with_file_line_and_reason(tmp_path: Path, row: bytes, reason: str) -> None:
    items = dataset(tmp_path, b"1\t%b\n%b\n3\t%b\n" % (BASE64.encode(), row, BASE64.encode()))
    assert set(images(items)) == {"1", "3"}
    (failure,) = failures(items)
    assert reason in failure.reason
    assert (Path(failure.file).name, failure.line) == ("train_imgs.tsv", 2)


def caption(number: int, text: str) -> str:
    return json.dumps({"text_id": number, "text": text, "image_ids": [number]}, ensure_ascii=False)


ROWS = "".join(f"{number}\t{BASE64}\n" for number in (1, 2, 3)).encode()


def test_a_line_ends_at_a_line_feed_only(tmp_path: Path) -> None:
    texts = "\n".join([caption(1, "海边\u2028的\u0085日落"), caption(2, "一只猫"), "", caption(3, "雪山")])
    items = dataset(tmp_path, ROWS, texts.encode())
    assert captions(items) == {"1": ["海边\u2028的\u0085日落"], "2": ["一只猫"], "3": ["雪山"]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text_id": 1, "image_ids": [2]}', "has no text"),
        (b"[1, 2]", "is not an object"),
        (b"{'text': 'x', 'image_ids': [2]}", "stand in double quotes"),
        (b'{"text": "x", "image_ids": "2"}', "image_ids is not a list of ids"),
        (b'{"text": "\xe9", "image_ids": [2]}', "is not UTF-8; if it is GBK"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_line_of_captions_fails_alone(tmp_path: Path, line: bytes, reason: str) -> None:
    items = dataset(tmp_path, ROWS, caption(1, "海边").encode() + b"\n" + line + b"\n" + caption(3, "雪山").encode())
    assert captions(items) == {"1": ["海边"], "2": [], "3": ["雪山"]}
    (failure,) = failures(items)
    assert reason in failure.reason
    assert (Path(failure.file).name, failure.line) == ("train_texts.jsonl", 2)


def test_gbk_captions_are_never_taken_for_utf8(tmp_path: Path) -> None:
    """雪山 and 一只猫 in GBK are valid UTF-8 by chance."""
    texts = "\n".join(caption(number, text) for number, text in enumerate(("海边的日落", "一只猫", "雪山"), start=1))
    items = dataset(tmp_path, ROWS, texts.encode("gbk"))
    assert captions(items) == {"1": [], "2": [], "3": []}
    assert [failure.line for failure in failures(items)] == [1, 2, 3]
    items = dataset(tmp_path, ROWS, texts.encode("gbk"), encoding="gbk")
    assert captions(items) == {"1": ["海边的日落"], "2": ["一只猫"], "3": ["雪山"]}
    assert not failures(items)


def test_gbk_ids_that_are_utf8_by_chance_are_told(tmp_path: Path) -> None:
    def note(ids: list[bytes], encoding: str = "") -> str:
        (tmp_path / "train_imgs.tsv").write_bytes(b"".join(each + f"\t{BASE64}\n".encode() for each in ids))
        misreadings = Misreadings()
        list(identified(open_source(tmp_path, encoding), IdRule.PATH, encoding, misreadings))
        return misreadings.note()

    gbk = [f"图{number}".encode("gbk") for number in range(3)]
    assert note(gbk) == "3 ids read as UTF-8 may be GBK (ͼ0, which would be 图0): --encoding gbk reads them so"
    assert not note(gbk, "gbk")
    for meant in ("海边", "Привет"):
        assert not note([*gbk, meant.encode()])
    for meant in ("海边", "Привет", "café"):
        assert not note([meant.encode()])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named(tmp_path: Path, encoding: str) -> None:
    for rows, texts in ((ROWS.decode().encode(encoding), b""), (ROWS, caption(1, "海边").encode(encoding))):
        with pytest.raises(SourceError, match=r"train_(imgs\.tsv|texts\.jsonl) is UTF-16.*iconv -f utf-16 -t utf-8"):
            dataset(tmp_path, rows, texts)


def test_captions_that_come_twice(tmp_path: Path) -> None:
    texts = [caption(1, "海边"), caption(1, "海" * 10_000), '{"text": "a", "text": "b", "image_ids": [2, 2]}']
    items = dataset(tmp_path, ROWS, "\n".join(texts).encode())
    assert captions(items) == {"1": ["海边", "海" * 10_000], "2": ["b", "b"], "3": []}
    assert not failures(items)


def test_captions_and_files_that_nothing_uses_are_counted(tmp_path: Path) -> None:
    (tmp_path / "IMG_9.png").write_bytes(PNG)
    (tmp_path / "train_imgs.tsv").write_bytes(ROWS)
    (tmp_path / "train_texts.jsonl").write_text(caption(9, "没有图"))
    source = open_source(tmp_path)
    assert len(images(source)) == 3
    assert source.passed_over.total() == 2
    assert source.passed_over["beside train_imgs.tsv"] == 1


def test_a_folder(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path)
    for name in ("照片/a.jpg", "no_ending", "photo.heic", "@eaDir/a.jpg/SYNO.jpg", "._a.jpg", ".thumbnails/a.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    with open(os.path.join(raw, "旅行照片.jpg".encode("gbk")), "wb") as file:
        file.write(PNG)
    (tmp_path / "notes.txt").write_text("P5 is not a bitmap, BM neither")
    (tmp_path / "raw.nef").write_bytes(b"II*\0" + bytes(100))
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    source = open_source(tmp_path)
    items = list(identified(source, IdRule.PATH))
    assert set(images(items)) == {"照片/a.jpg", "no_ending", "photo.heic"}
    by_reason = {failure.reason.split(";")[0]: failure for failure in failures(items)}
    assert set(by_reason) == {"its id is not UTF-8", "cannot be read: No such file or directory"}
    assert source.passed_over - type(source.passed_over)() == {
        "leftovers of a NAS or a desktop": 4,
        ".txt": 1,
        ".nef": 1,
        "unreadable": 1,
        "links to folders": 1,
        "not files": 1,
    }
    named = images(identified(open_source(tmp_path), IdRule.PATH, "gbk"))
    assert "旅行照片.jpg" in named


def test_links_that_lead_nowhere_and_a_file_that_vanishes(tmp_path: Path) -> None:
    for name, target in (("a.png", "a.png"), ("b.png", "c.png"), ("c.png", "b.png"), ("up", ".."), ("here", ".")):
        (tmp_path / name).symlink_to(target)
    for name in ("gone.png", "stays.png", "empty.png"):
        (tmp_path / name).write_bytes(PNG if name != "empty.png" else b"")
    source = open_source(tmp_path)
    (tmp_path / "gone.png").unlink()
    items = list(identified(source, IdRule.PATH))
    assert images(items) == {"stays.png": PNG, "empty.png": b""}  # the gateway says that it holds no bytes
    circle = "cannot be read: Too many levels of symbolic links"
    assert {failure.image_id: failure.reason for failure in failures(items)} == {
        **dict.fromkeys(("a.png", "b.png", "c.png"), circle),
        "gone.png": "cannot be read: No such file or directory",
    }
    assert source.passed_over["links to folders"] == 2


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for another user: root reads every folder."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    source = open_source(tmp_path)
    items = list(source)
    assert set(images(items)) == {"a.png"}
    assert [(each.image_id, each.reason) for each in failures(items)] == [
        ("closed", "the folder cannot be read: Permission denied")
    ]
    assert source.passed_over["unreadable"] == 1


def test_ids_by_another_rule(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(PNG)
    assert set(images(identified(open_source(tmp_path), IdRule.STEM))) == {"x"}
    (name,) = images(identified(open_source(tmp_path), IdRule.SHA256))
    assert len(name) == 64


def put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def link(archive: tarfile.TarFile, name: str, target: str, kind: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    archive.addfile(member)


def tar(path: Path, mode: Any = "w") -> Path:
    """Three images of noise, which compression does not shrink, and what is passed over."""
    with tarfile.open(path, mode) as archive:
        for number in range(3):
            put(archive, f"./p{number}.png", PNG + random.Random(number).randbytes(4000))
        put(archive, "0.json", b"{}")
        put(archive, "__MACOSX/._p0.png", PNG)
    return path


def read_until_broken(source: Source) -> tuple[list[Item], str]:
    items: list[Item] = []
    with pytest.raises(SourceError) as caught:
        items.extend(item for item in source if items.append(item))  # type: ignore[func-returns-value]
    return items, str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar(tmp_path: Path, mode: str) -> None:
    source = open_source(tar(tmp_path / "x.anything", mode))
    assert set(images(source)) == {"p0.png", "p1.png", "p2.png"}
    assert source.passed_over == {".json": 1, "leftovers of a NAS or a desktop": 1}
    assert source.fraction() == 1.0


def test_links_in_a_tar_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link(archive, "b/first.png", "../a/real.png", tarfile.SYMTYPE)
        put(archive, "a/real.png", PNG)
        link(archive, "hard.png", "a/real.png", tarfile.LNKTYPE)
        link(archive, "chain.png", "b/first.png", tarfile.SYMTYPE)
        link(archive, "away.png", "/etc/passwd", tarfile.SYMTYPE)
        link(archive, "circle.png", "circle.png", tarfile.SYMTYPE)
    items = list(open_source(path))
    assert images(items) == dict.fromkeys(("a/real.png", "b/first.png", "hard.png", "chain.png"), PNG)
    assert {failure.image_id for failure in failures(items)} == {"away.png", "circle.png"}


def flip_third_header(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        at = archive.getmembers()[2].offset + 150
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("mode", "damage", "read", "says"),
    [
        ("w", flip_third_header, {"p0.png", "p1.png"}, "is broken. Read: 2 entries before it; not read: what stands"),
        ("w", lambda data: data[:6000], {"p0.png"}, "bytes of p1.png. Read: 1 entries"),
        ("w", lambda data: data[: data.rindex(b"__MACOSX") + 1024], {"p0.png", "p1.png", "p2.png"}, "no end mark"),
        ("w:gz", lambda data: data[: len(data) * 6 // 10], {"p0.png"}, "is cut or damaged"),
        ("w:gz", lambda data: data[:-8] + bytes(4) + data[-4:], {"p0.png"}, "is damaged: CRC check failed"),
    ],
)
def test_damage_of_a_tar_is_said(
    tmp_path: Path, mode: str, damage: Callable[[bytes], bytes], read: set[str], says: str
) -> None:
    path = tar(tmp_path / "x.tar", mode)
    path.write_bytes(damage(path.read_bytes()))
    items, message = read_until_broken(open_source(path))
    assert read <= set(images(items))
    assert says in message
    assert message.endswith("Fetch it again and repeat the import: what is there already is skipped")


def test_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p0.png", PNG)
        archive.writestr("folder/", b"")
        archive.writestr("folder/damaged.png", PNG)
        archive.writestr("notes.txt", "notes")
        symbolic = zipfile.ZipInfo("folder/link.png")
        symbolic.external_attr = 0o120777 << 16
        archive.writestr(symbolic, "../p0.png")
        # As Windows in China writes it: GBK without a mark.
        archive.writestr("XXXXXXXX.png", PNG)
    data = path.read_bytes().replace(b"XXXXXXXX", "旅行照片".encode("gbk"))
    at = data.index(b"folder/damaged.png") + 40
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    items = list(identified(open_source(path, "gbk"), IdRule.PATH, "gbk"))
    assert images(items) == dict.fromkeys(("p0.png", "folder/link.png", "旅行照片.png"), PNG)
    assert [failure.image_id for failure in failures(items)] == ["folder/damaged.png"]
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="was it cut"):
        open_source(path)


def test_no_entry_of_an_archive_is_lost(tmp_path: Path) -> None:
    """Two entries of one name, and an archive in the archive."""
    other = encoded(drawn(30, 20))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped, tarfile.open(tmp_path / "x.tar", "w") as tarred:
        for name, data in (("a.png", PNG), ("a.png", other), ("inner.zip", b"PK\x03\x04"), ("b.png", other)):
            put(tarred, name, data)
            if name in zipped.namelist():
                with pytest.warns(UserWarning, match="Duplicate name"):
                    zipped.writestr(name, data)
            else:
                zipped.writestr(name, data)
    for path in (tmp_path / "x.zip", tmp_path / "x.tar"):
        source = open_source(path)
        items = list(identified(source, IdRule.PATH))
        assert images(items) == {"a.png": PNG, "b.png": other}
        assert ["came before" in failure.reason for failure in failures(items)] == [True]
        assert source.passed_over == {".zip": 1}
        assert len(images(identified(open_source(path), IdRule.SHA256))) == 2


def test_what_is_no_source(tmp_path: Path) -> None:
    for name, data, says in (
        ("empty.tar", b"", "is empty"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c" + bytes(1000), "Unpack other archives"),
        ("train_texts.jsonl", b"{}", "name the file ending in _imgs.tsv"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=says):
            open_source(tmp_path / name)
    with pytest.raises(SourceError, match="there is nothing at"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "one").write_bytes(PNG)
    assert images(open_source(tmp_path / "one")) == {"one": PNG}
