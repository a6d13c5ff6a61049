"""Text in UTF-8, or in the encoding that a person names."""

from __future__ import annotations

import os

# UTF-8 writes characters up to here in two bytes at most, as GBK and Big5 write theirs.
_LAST_OF_TWO_BYTES = "\u07ff"


def decode(raw: bytes, encoding: str = "") -> str | None:
    """The text; None if it is neither UTF-8 nor in `encoding`."""
    text = _decode(raw, "utf-8")
    if encoding and (text is None or may_be_misread(text)):
        return _decode(raw, encoding) or text
    return text


def file_name(name: str) -> str:
    """A file's name as the system gave it, read as UTF-8 whatever the locale is; bytes that are not stay surrogates.

    If the locale reads them well and UTF-8 does not, or perhaps by chance only, the locale is right: a GBK terminal.
    """
    utf8 = os.fsencode(name).decode("utf-8", "surrogateescape")
    return name if _is_text(name) and (not _is_text(utf8) or may_be_misread(utf8)) else utf8


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def may_be_misread(text: str) -> bool:
    """Whether text that was read as UTF-8 may be GBK by chance: 一只猫 becomes һֻè, all of characters of two bytes."""
    return not text.isascii() and max(text) <= _LAST_OF_TWO_BYTES


def gbk_by_chance(text: str) -> str:
    """The common Chinese that the bytes of a text read as UTF-8 are in GBK; empty if they are not."""
    if not may_be_misread(text):
        return ""
    # GB2312 has the common characters in its rows 16 to 55, whose first bytes are these.
    gbk = _decode(text.encode(), "gb2312") or ""
    return gbk if all(each.isascii() or 0xB0 <= each.encode("gb2312")[0] <= 0xD7 for each in gbk) else ""


def _decode(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None
