"""What is written into Milvus's expressions: names of fields and literals. Nothing else may put a value into one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import unquote

KEY, VECTOR, ATTRIBUTES = "image_id", "embedding", "attributes"

# Milvus 2.3 cuts a path at brackets, whatever quotes stand around them, and takes it for a JSON pointer.
_UNSAFE = re.compile(r"[%\[\]\"'\\/~\x00-\x1f\x7f]")


def literal(value: str | float | bool) -> str:
    """A literal of Milvus's expressions, whose escapes are Go's: those of JSON are among them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(float(value))


def any_of(image_ids: Iterable[str]) -> str:
    """The rows of these keys."""
    return f"{KEY} in [{', '.join(map(literal, image_ids))}]"


def after(image_id: str) -> str:
    """The rows whose keys come after this one."""
    return f"{KEY} > {literal(image_id)}"


def both(*expressions: str) -> str:
    """The rows for which all of the expressions hold; an empty one holds for every row."""
    return " and ".join(f"({each})" for each in expressions if each)


def stored_name(attribute: str) -> str:
    """An attribute's name as it is stored, with what a path cannot hold written as %XX. Most names stay as they are."""
    return _UNSAFE.sub(lambda match: f"%{ord(match.group()):02X}", attribute)


def attribute_name(stored: str) -> str:
    """The other way."""
    return unquote(stored)
