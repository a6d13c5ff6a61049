"""Pictures in a tar."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from cli.sources.source import SUFFIXES, SourceError, SourceImage


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


def _is_picture(member: tarfile.TarInfo) -> bool:
    name = Path(member.name)
    return member.isfile() and name.suffix.lower() in SUFFIXES and not name.name.startswith("._")
