"""Lines of files as people write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from cli.sources.source import SourceError
from services.common.limits import MIB

BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 128 * MIB


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number, from 1, and bytes of each line that is not blank, stripped of white space; None if one is too long.

    A line ends at a line feed and nowhere else: U+2028 and U+0085 are text. A byte order mark is left out. Raises
    SourceError for UTF-16, which no encoding of single lines can read.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1 and _is_utf16(line):
            raise SourceError(
                f"{file.name} is UTF-16, as Excel writes it: convert it to UTF-8 (iconv -f utf-16 -t utf-8)"
            )
        too_long = not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES
        if too_long:
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
            continue
        line = line.removeprefix(BOM) if number == 1 else line
        if line := line.strip():
            yield number, line


def _is_utf16(line: bytes) -> bool:
    """Whether a first line has the mark of UTF-16, or the zeros of ASCII written in it."""
    head = line[:64]
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or head.count(0) > len(head) // 4
