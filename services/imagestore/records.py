"""The records of the image store: images to store, infos of stored images, and counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Creation:
    """A collection and one of its creations. An empty creation id means the newest one."""

    collection: str
    creation_id: str = ""


@dataclass(frozen=True)
class Upload:
    """An image to store. `attributes` are JSON."""

    image_id: str
    data: bytes
    media_type: str
    width: int
    height: int
    attributes: str | None = None


@dataclass(frozen=True)
class Info:
    """Facts of a stored image. `sha256` is hexadecimal. `attributes` are JSON, and read only if asked for.

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
