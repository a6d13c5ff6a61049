"""Pictures in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cli.sources.source import SUFFIXES, SourceImage


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
