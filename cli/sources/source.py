"""What a source of pictures is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif"})


class SourceError(Exception):
    """A source cannot be read; the message says what is wrong with it."""


@dataclass(frozen=True)
class SourceImage:
    """A picture to import. `error` says why it could not be read, `data` is empty then."""

    image_id: str
    data: bytes
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Source(Protocol):
    """Pictures with ids, in a fixed order."""

    def count(self) -> int:
        """Number of pictures."""

    def __iter__(self) -> Iterator[SourceImage]: ...
