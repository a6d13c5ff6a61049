"""Images in archives: tar, also compressed, and zip."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from cli.sources.source import (
    LEFTOVER,
    MAX_UPLOAD_BYTES,
    Item,
    SourceError,
    SourceFailure,
    SourceImage,
    is_leftover,
    too_large,
)
from services.common.image_formats import HEAD_BYTES, ending, may_be_image

_AGAIN = "Fetch it again and repeat the import: what is there already is skipped"
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


class Tar:
    """Every image in a tar, also one compressed by gzip, bzip2 or xz; the id is its name there.

    Hard and symbolic links are followed inside the archive: their images come after the others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.passed_over: Counter[str] = Counter()
        self._size = path.stat().st_size
        self._position = 0
        self._damage: Exception | None = None
        if self._size == 0:
            raise SourceError(f"{path} is empty")
        try:
            with path.open("rb") as raw, _decompressed(raw) as file, tarfile.open(fileobj=file, mode="r:"):
                pass
        except DAMAGE as error:
            raise SourceError(
                f"{path} is neither an image nor an archive that can be read (tar, tar.gz, tar.bz2, tar.xz, zip), nor "
                f"a SPLIT_imgs.tsv: {error}. Unpack other archives, and import the folder."
            ) from error

    def fraction(self) -> float:
        return self._position / self._size

    def __iter__(self) -> Iterator[Item]:
        links: dict[str, str] = {}
        for name, member, content in self._members():
            if member.islnk() or member.issym():
                links[name] = _target(name, member)
            elif member.isfile() and (item := self._read(name, member, content)) is not None:
                yield item
        if links:
            yield from self._linked(links)

    def _linked(self, links: dict[str, str]) -> Iterator[Item]:
        """The images behind links: one more pass, in which each target is read once."""
        aliases: dict[str, list[str]] = defaultdict(list)
        for name in links:
            if _wanted(name):
                aliases[_follow(name, links)].append(name)
            else:
                self.passed_over[LEFTOVER] += 1
        for name, member, content in self._members():
            names = aliases.pop(name, ()) if member.isfile() else ()
            item = self._read(name, member, content) if names else None
            for alias in names:
                if item is not None:
                    yield dataclasses.replace(item, image_id=alias)
        for target, names in aliases.items():
            for name in names:
                yield SourceFailure(
                    name, f"is a link to {target}, which is not a file of this archive", file=str(self._path)
                )

    def _read(self, name: str, member: tarfile.TarInfo, content: IO[bytes]) -> Item | None:
        try:
            return _read_member(name, member.size, content, str(self._path), self.passed_over)
        except DAMAGE as error:
            self._damage = error
            return SourceFailure(name, f"cannot be read: {error}", file=str(self._path))

    def _check_end(self, file: BinaryIO, read: int) -> None:
        """Reads what is left, because compressed files have their checksum at the end. Raises SourceError."""
        try:
            while file.read(1 << 20):
                pass
        except DAMAGE as error:
            raise SourceError(
                f"{self._path} is damaged: {error}. Read: all {read:,} entries, but some are not what was packed. "
                f"{_AGAIN}"
            ) from error

    def _members(self) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]:
        """Name, header and content of each entry. Raises SourceError at damage, which tarfile takes for the end."""
        read, self._damage = 0, None
        try:
            with (
                self._path.open("rb") as raw,
                _decompressed(raw) as file,
                tarfile.open(fileobj=file, mode="r:", errors="surrogateescape", encoding="utf-8") as archive,
            ):
                while (member := archive.next()) is not None:
                    # Else the names of an archive of millions are held in memory.
                    archive.members.clear()  # type: ignore[attr-defined]
                    self._position = raw.tell()
                    yield member.name.removeprefix("./"), member, _content(archive, member, file)
                    if self._damage is not None:
                        raise self._damage
                    read += 1
                file.seek(archive.offset)
                block = file.read(tarfile.BLOCKSIZE)
                if not block:
                    raise SourceError(f"{self._path} has no end mark: it was cut. Read: {read:,} entries. {_AGAIN}")
                if block.strip(b"\0"):
                    raise SourceError(
                        f"{self._path} is damaged: the header at byte {archive.offset:,} is broken. Read: {read:,} "
                        f"entries before it; not read: what stands behind it. {_AGAIN}"
                    )
                self._position = self._size
                self._check_end(file, read)
        except DAMAGE as error:
            raise SourceError(
                f"{self._path} is cut or damaged: {error}. Read: {read:,} entries; not read: what stands behind them. "
                f"{_AGAIN}"
            ) from error


class Zip:
    """Every image in a zip; the id is its name there. Symbolic links are followed inside the archive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.passed_over: Counter[str] = Counter()
        try:
            with zipfile.ZipFile(path) as archive:
                self._count = len(archive.infolist())
        except DAMAGE as error:
            raise SourceError(
                f"{path} cannot be read as a zip: {error}. Its table of contents stands at its end: was it cut?"
            ) from error
        self._done = 0

    def fraction(self) -> float:
        return self._done / max(1, self._count)

    def __iter__(self) -> Iterator[Item]:
        with zipfile.ZipFile(self._path) as archive:
            by_name = {_zip_name(info): info for info in archive.infolist()}
            for info in archive.infolist():
                name = _zip_name(info)
                self._done += 1
                if info.is_dir():
                    continue
                try:
                    if stat.S_ISLNK(info.external_attr >> 16):
                        target = posixpath.normpath(
                            posixpath.join(
                                posixpath.dirname(name), archive.read(info).decode("utf-8", "surrogateescape")
                            )
                        )
                        if target not in by_name:
                            reason = f"is a link to {target}, which is not a file of this archive"
                            yield SourceFailure(name, reason, file=str(self._path))
                            continue
                        info = by_name[target]
                    with archive.open(info) as content:
                        item = _read_member(name, info.file_size, content, str(self._path), self.passed_over)
                # RuntimeError: a password; NotImplementedError: a compression that Python lacks.
                except (*DAMAGE, RuntimeError, NotImplementedError) as error:
                    item = SourceFailure(name, f"cannot be read: {error}", file=str(self._path))
                if item is not None:
                    yield item


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does; one that was cut does too."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _read_member(name: str, size: int, content: IO[bytes], path: str, passed_over: Counter[str]) -> Item | None:
    """The image in an entry of `size` bytes. None, counted in `passed_over`, if it holds none."""
    if not _wanted(name):
        passed_over[LEFTOVER] += 1
        return None
    head = content.read(min(size, HEAD_BYTES))
    if not may_be_image(name, head):
        passed_over[ending(name) or "without an ending"] += 1
        return None
    if size > MAX_UPLOAD_BYTES:
        return SourceFailure(name, too_large(size), file=path)
    data = head + content.read(size - len(head))
    if len(data) != size:
        raise EOFError(f"the archive holds {len(data):,} of the {size:,} bytes of {name}")
    return SourceImage(name, data, file=path)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, file: BinaryIO) -> IO[bytes]:
    """What reads an entry: `file` itself, which gives what is there of an entry that was cut."""
    if member.issparse():
        return archive.extractfile(member) or file
    file.seek(member.offset_data)
    return file


def _wanted(name: str) -> bool:
    return not any(map(is_leftover, name.split("/")))


def _target(name: str, member: tarfile.TarInfo) -> str:
    """The name of the entry that a link points to; a symbolic link starts from its own folder."""
    start = posixpath.dirname(name) if member.issym() else ""
    return posixpath.normpath(posixpath.join(start, member.linkname))


def _follow(name: str, links: dict[str, str]) -> str:
    """The end of a chain of links; of a circle, some name in it."""
    seen: set[str] = set()
    while name in links and name not in seen:
        seen.add(name)
        name = links[name]
    return name


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name as its bytes say: most programs write UTF-8, or a local encoding as GBK, without the mark for it."""
    if info.flag_bits & 0x800:
        return info.filename
    return info.filename.encode("cp437", "replace").decode("utf-8", "surrogateescape")


def _decompressed(raw: BinaryIO) -> BinaryIO:
    head = raw.read(6)
    raw.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return bz2.BZ2File(raw)  # type: ignore[return-value]
    if head.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(raw)  # type: ignore[return-value]
    return raw
