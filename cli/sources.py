"""Where pictures to import come from: a folder, a tar, or Chinese-CLIP's dataset files."""

from __future__ import annotations

import base64
import binascii
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif"})
TSV_ENDING = "_imgs.tsv"
TEXTS_ENDING = "_texts.jsonl"


class SourceError(Exception):
    """A source cannot be read; the message says what is wrong with it."""


@dataclass(frozen=True)
class SourceImage:
    """A picture to import. `error` says why it could not be read, `data` is empty then."""

    image_id: str
    data: bytes
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Source(Protocol):
    """Pictures with ids, in a fixed order."""

    def count(self) -> int:
        """Number of pictures."""

    def __iter__(self) -> Iterator[SourceImage]: ...


class Folder:
    """Every picture file below a folder; the id is its path from there, with slashes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())

    def count(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[SourceImage]:
        for file in self._files:
            image_id = file.relative_to(self._path).as_posix()
            try:
                yield SourceImage(image_id, file.read_bytes())
            except OSError as error:
                yield SourceImage(image_id, b"", error=str(error))


class Tar:
    """Every picture file in a tar, also a compressed one; the id is its name there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with tarfile.open(path) as archive:
                self._count = sum(map(_is_picture, archive))
        except (tarfile.TarError, OSError) as error:
            raise SourceError(f"{path} cannot be read as a tar: {error}") from error

    def count(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[SourceImage]:
        with tarfile.open(self._path) as archive:
            for member in archive:
                if _is_picture(member) and (file := archive.extractfile(member)) is not None:
                    yield SourceImage(member.name.removeprefix("./"), file.read())


class ChineseClipDataset:
    """One split of Chinese-CLIP's dataset files: SPLIT_imgs.tsv of id and base64, and SPLIT_texts.jsonl of captions.

    The captions of a picture become its attribute `captions`. The format is that of Chinese-CLIP's README and of
    cn_clip/preprocess/build_lmdb_dataset.py.
    """

    def __init__(self, tsv: Path) -> None:
        self._tsv = tsv
        with tsv.open("rb") as file:
            self._count = sum(1 for line in file if line.strip())
        self._captions: dict[str, list[str]] = defaultdict(list)
        texts = tsv.with_name(tsv.name.removesuffix(TSV_ENDING) + TEXTS_ENDING)
        if texts.exists():
            for line in texts.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                for image_id in entry.get("image_ids", ()):
                    self._captions[str(image_id)].append(entry["text"])

    def count(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[SourceImage]:
        with self._tsv.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                image_id, _, encoded = line.rstrip("\n").partition("\t")
                captions = self._captions.get(image_id)
                attributes = {"captions": captions} if captions else {}
                try:
                    # Chinese-CLIP itself writes the URL-safe alphabet here and the plain one there.
                    data = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
                except binascii.Error as error:
                    yield SourceImage(image_id or f"line {number}", b"", error=f"line {number}: {error}")
                else:
                    yield SourceImage(image_id, data, attributes)


def open_source(path: Path) -> Source:
    """The source at a path, by what is there. Raises SourceError."""
    if not path.exists():
        raise SourceError(f"there is nothing at {path}")
    if path.is_file():
        return ChineseClipDataset(path) if path.name.endswith(".tsv") else Tar(path)
    datasets = sorted(path.glob(f"*{TSV_ENDING}"))
    if len(datasets) > 1:
        names = ", ".join(each.name for each in datasets)
        raise SourceError(f"{path} has several splits ({names}): name one of the files")
    return ChineseClipDataset(datasets[0]) if datasets else Folder(path)


def _is_picture(member: tarfile.TarInfo) -> bool:
    name = Path(member.name)
    return member.isfile() and name.suffix.lower() in SUFFIXES and not name.name.startswith("._")
