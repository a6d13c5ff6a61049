"""Lines of files as people write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from services.common.limits import MIB

BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 128 * MIB


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number, from 1, and bytes of each line that is not blank, stripped of white space; None if one is too long.

    A line ends at a line feed and nowhere else: U+2028 and U+0085 are text. A byte order mark is left out.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        too_long = not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES
        if too_long:
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
            continue
        line = line.removeprefix(BOM) if number == 1 else line
        if line := line.strip():
            yield number, line
