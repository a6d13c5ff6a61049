"""The rules of ids and pages. They are the same in every service."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from services.common.errors import InvalidField
from services.common.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_COLLECTION_CHARS,
    MAX_IDS,
    MAX_IMAGE_ID_BYTES,
    MAX_PAGE_SIZE,
    MAX_PAGE_TOKEN_CHARS,
)

COLLECTION_PATTERN = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_COLLECTION_CHARS - 1}}}")
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


def check_collection(value: str, field: str = "collection") -> str:
    if not COLLECTION_PATTERN.fullmatch(value):
        raise InvalidField(field, f"must match {COLLECTION_PATTERN.pattern}, got {value[:80]!r}")
    return value


def check_image_id(value: str, field: str = "image_id") -> str:
    size = len(value.encode())
    if not 1 <= size <= MAX_IMAGE_ID_BYTES:
        raise InvalidField(field, f"must be 1 to {MAX_IMAGE_ID_BYTES} bytes of UTF-8, got {size}")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise InvalidField(field, "must not contain control characters")
    return value


def check_image_ids(values: Sequence[str], field: str = "image_ids", most: int = MAX_IDS) -> list[str]:
    """The distinct ids, in the order of their first appearance. A repeated id is answered once."""
    check_count(values, field, most)
    return list(dict.fromkeys(check_image_id(value, f"{field}[{place}]") for place, value in enumerate(values)))


def check_sha256(value: str, field: str) -> str:
    """Check a checksum. An empty text passes too."""
    if value and not SHA256_PATTERN.fullmatch(value):
        raise InvalidField(field, "must be 64 lower-case hexadecimal digits")
    return value


def check_count(values: Sequence[object], field: str, most: int, *, least: int = 1) -> None:
    """Check the number of values. Call it before any code that visits each value."""
    if not least <= len(values) <= most:
        raise InvalidField(field, f"must hold {least} to {most} items, got {len(values)}")


def check_distinct(values: Sequence[str], field: str) -> None:
    seen: set[str] = set()
    for place, value in enumerate(values):
        if value in seen:
            raise InvalidField(f"{field}[{place}]", f"repeats {value[:80]!r}")
        seen.add(value)


def check_range(value: float, field: str, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidField(field, f"must be {low:,} to {high:,}, got {value:,}")


def check_known(value: int, kind: Any, field: str) -> None:
    """Raises InvalidField if an enum of the contract does not have the number. `kind` is the generated enum."""
    if value not in kind.values():
        raise InvalidField(field, f"{value} is not a value of {kind.DESCRIPTOR.name}")


def page_size(value: int, field: str = "page_size") -> int:
    if value == 0:
        return DEFAULT_PAGE_SIZE
    check_range(value, field, 1, MAX_PAGE_SIZE)
    return value


def page_token(last_key: str) -> str:
    """A token for the page after `last_key`. Empty if there is no further page."""
    return base64.urlsafe_b64encode(last_key.encode()).decode()


def page_start(token: str, field: str = "page_token") -> str:
    """The key after which a page starts: the id of an image or collection. Empty for the first page."""
    if len(token) > MAX_PAGE_TOKEN_CHARS:
        raise InvalidField(field, "is not a token of this service")
    try:
        key = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode()
        return check_image_id(key) if key else ""
    except (binascii.Error, UnicodeError, InvalidField) as error:
        raise InvalidField(field, "is not a token of this service") from error
