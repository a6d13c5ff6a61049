"""What the image store takes and gives: images, what is known of them, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rendition(StrEnum):
    """A form of an image that can be read."""

    ORIGINAL = "original"
    THUMBNAIL = "thumbnail"


@dataclass(frozen=True)
class Creation:
    """A collection, and which creation of it is meant: the newest if it is empty."""

    collection: str
    creation_id: str = ""


@dataclass(frozen=True)
class Upload:
    """An image to store. `attributes` in JSON."""

    image_id: str
    data: bytes
    media_type: str
    width: int
    height: int
    attributes: str | None = None


@dataclass(frozen=True)
class Info:
    """What is known of a stored image. `sha256` in hexadecimal; `attributes` in JSON, where asked for.

    `revision` changes with every write of the image.
    """

    image_id: str
    sha256: str
    media_type: str
    size_bytes: int
    width: int
    height: int
    create_time_ms: int
    revision: int
    attributes: str | None = None


@dataclass(frozen=True)
class Blob:
    info: Info
    data: bytes = b""
    thumbnail: bytes = b""


@dataclass(frozen=True)
class Counts:
    images: int
    contents: int
    content_bytes: int
