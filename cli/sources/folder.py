"""Images in a folder, and a single image file."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cli.sources.source import LEFTOVER, MAX_UPLOAD_BYTES, Item, SourceFailure, SourceImage, is_leftover, too_large
from cli.sources.text_encoding import file_name
from services.common.image_formats import HEAD_BYTES, ending, may_be_image

UNREADABLE = "unreadable"


class Folder:
    """Every image below a folder; the id is its path from there, with slashes. Links to folders are not followed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.passed_over: Counter[str] = Counter()
        self._unreadable: list[OSError] = []
        self._files = list(self._walk())
        self._done = 0

    def fraction(self) -> float:
        return self._done / max(1, len(self._files))

    def __iter__(self) -> Iterator[Item]:
        for error in self._unreadable:
            self.passed_over[UNREADABLE] += 1
            name = os.path.relpath(error.filename or self._path, self._path)
            yield SourceFailure(name, f"the folder cannot be read: {error.strerror}", file=name, passed_over=True)
        for name in self._files:
            self._done += 1
            item = read_image(self._path / name, file_name(name).replace(os.sep, "/"), self.passed_over)
            if item is not None:
                yield item

    def _walk(self) -> Iterator[str]:
        """Files below the folder as paths from there, in the order of names; leftovers are counted and left out."""
        for folder, folders, files in os.walk(self._path, onerror=self._unreadable.append):
            self.passed_over[LEFTOVER] += sum(map(is_leftover, [*folders, *files]))
            folders[:] = sorted(name for name in folders if not is_leftover(name))
            linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            self.passed_over["links to folders"] += len(linked)
            for name in sorted(files):
                if not is_leftover(name):
                    yield os.path.relpath(os.path.join(folder, name), self._path)


class SingleImage:
    """One image file; the id is its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.passed_over: Counter[str] = Counter()

    def fraction(self) -> float:
        return 1.0

    def __iter__(self) -> Iterator[Item]:
        item = read_image(self._path, file_name(self._path.name), self.passed_over)
        if item is not None:
            yield item


def read_image(path: Path, image_id: str, passed_over: Counter[str]) -> Item | None:
    """The image in a file. None, counted in `passed_over`, if it holds none."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            passed_over["not files"] += 1
            return None
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if not may_be_image(path.name, head):
                passed_over[ending(path.name) or "without an ending"] += 1
                return None
            if found.st_size > MAX_UPLOAD_BYTES:
                return SourceFailure(image_id, too_large(found.st_size), file=str(path))
            return SourceImage(image_id, head + file.read(), file=str(path))
    except OSError as error:
        passed_over[UNREADABLE] += 1
        return SourceFailure(image_id, f"cannot be read: {error.strerror}", file=str(path), passed_over=True)
