"""Text that came from outside is data for the terminal: it never becomes markup, an escape sequence or a traceback."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wide enough that no table of a file or a pipe is ever cut.
UNLIMITED_COLUMNS = 100_000
# Marks that change the direction of the text behind them, and so what a line seems to say.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters, surrogates (bytes that are not UTF-8), line and paragraph separators.
_ESCAPED = frozenset({"Cc", "Cs", "Zl", "Zp"})

console = Console(markup=False, emoji=False, highlight=False)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)


def prepare_streams() -> None:
    """A character that the terminal's encoding does not have becomes a replacement, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for each in (console, errors):
        if not each.is_terminal:
            each.width = UNLIMITED_COLUMNS


def plain(text: str) -> str:
    """The text with what would command the terminal written as escapes: `\\x1b`, `\\u202e`, `\\xc2` for a byte."""
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character not in _BIDI and unicodedata.category(character) not in _ESCAPED:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def say(text: str = "") -> None:
    """One line to standard output."""
    console.print(plain(text), soft_wrap=True)


def warn(text: str) -> None:
    """Lines to standard error."""
    errors.print("\n".join(map(plain, text.split("\n"))), soft_wrap=True)


def say_json(document: Any) -> None:
    """JSON to standard output, whole whatever the encoding: what the terminal does not have is escaped."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(document, ensure_ascii=not unicode, indent=2))


def say_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), title: str = ""
) -> None:
    """A table to standard output. `right` names the columns that are aligned to the right. Long words are folded."""
    table = Table(title=Text(plain(title)) if title else None, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console.print(table)
