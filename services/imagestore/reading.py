"""Reads images: the statements, built once, and the conversion of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, select

from services.common.errors import AnswerTooLarge
from services.imagestore.records import Info
from services.imagestore.schema import contents, images

_COLUMNS = (
    images.c.image_id,
    images.c.sha256,
    images.c.media_type,
    images.c.size_bytes,
    images.c.width,
    images.c.height,
    images.c.create_time_ms,
    images.c.revision,
)
# Larger than any sum of sizes. SQL has no infinity.
_NO_LIMIT = 2**62


def by_id(
    connection: Connection, collection: str, image_ids: Sequence[str], with_attributes: bool = False
) -> dict[str, Info]:
    """The infos of those of `image_ids` that exist."""
    rows = connection.execute(_chosen(with_attributes, False), _parameters(collection, image_ids))
    return {found.image_id: found for found in map(_info, rows)}


def with_bytes(
    connection: Connection,
    collection: str,
    image_ids: Sequence[str],
    with_attributes: bool = False,
    max_bytes: int | None = None,
) -> dict[str, tuple[Info, bytes]]:
    """The infos and bytes of those of `image_ids` that exist. The bytes are empty if they are missing.

    Raises AnswerTooLarge if the bytes exceed `max_bytes` together, before they are read.
    """
    # Images up to this size cannot exceed the limit together. Larger ones are read only after the sum is known.
    limit = _NO_LIMIT if max_bytes is None else max_bytes
    share = limit // len(image_ids)
    parameters = _parameters(collection, image_ids) | {"share": share}
    found: dict[str, tuple[Info, bytes]] = {}
    for *columns, data in connection.execute(_chosen(with_attributes, True), parameters):
        info = _info(columns)
        found[info.image_id] = (info, bytes(data or b""))
    size = sum(info.size_bytes for info, _ in found.values())
    if size > limit:
        raise AnswerTooLarge(f"these images have {size:,} bytes; one answer takes {limit:,}")
    for image_id in [info.image_id for info, _ in found.values() if info.size_bytes > share]:
        # The whole row is read again, since the image may have been replaced since the first read.
        info, _ = found.pop(image_id)
        left = limit - (size - info.size_bytes)
        found |= with_bytes(connection, collection, [image_id], with_attributes, left)
    return found


def rows_after(
    connection: Connection, collection: str, image_id: str, size: int, with_attributes: bool = False
) -> list[Info]:
    """The infos of the `size` images with the smallest ids after `image_id`."""
    parameters = {"collection": collection, "after": image_id.encode(), "size": size}
    return list(map(_info, connection.execute(_page(with_attributes), parameters)))


def data_of(connection: Connection, collection: str, sha256: bytes) -> bytes | None:
    """The bytes of a content, or None if it does not exist."""
    statement = select(contents.c.data).where(contents.c.collection == collection, contents.c.sha256 == sha256)
    found = connection.execute(statement).scalar_one_or_none()
    return None if found is None else bytes(found)


def _parameters(collection: str, image_ids: Sequence[str]) -> dict[str, Any]:
    return {"collection": collection, "ids": [image_id.encode() for image_id in image_ids]}


def _columns(with_attributes: bool) -> tuple[Any, ...]:
    return (*_COLUMNS, images.c.attributes) if with_attributes else _COLUMNS


@cache
def _chosen(with_attributes: bool, with_data: bool) -> Select[Any]:
    """A statement by collection and ids. It reads the bytes too, since a second statement would double the time."""
    columns = _columns(with_attributes)
    wanted = (images.c.collection == bindparam("collection")) & images.c.image_id.in_(bindparam("ids", expanding=True))
    statement = select(*columns).where(wanted)
    if not with_data:
        return statement
    data = case((images.c.size_bytes <= bindparam("share"), contents.c.data))
    same = (images.c.collection == contents.c.collection) & (images.c.sha256 == contents.c.sha256)
    return statement.add_columns(data).select_from(images.outerjoin(contents, same))


@cache
def _page(with_attributes: bool) -> Select[Any]:
    return (
        select(*_columns(with_attributes))
        .where(images.c.collection == bindparam("collection"), images.c.image_id > bindparam("after"))
        .order_by(images.c.image_id)
        .limit(bindparam("size"))
    )


def _info(row: Sequence[Any]) -> Info:
    image_id, sha256, *rest = row
    return Info(bytes(image_id).decode(), bytes(sha256).hex(), *rest)
