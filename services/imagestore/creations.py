"""The creations of collections: finds the creation that a request means, and refuses images for dropped ones.

If a collection is deleted and created again, it has a new creation with the same collection id. Rows of images are
keyed by creation. The first image of a creation registers it. A dropped creation stays registered as dropped, so that a
late put cannot bring it back.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from services.common.errors import CollectionNotFound
from services.imagestore.records import Creation
from services.imagestore.schema import creations


class State(IntEnum):
    LIVE = 0
    # A dropped creation accepts no images. Some of its images may not be removed yet.
    DROPPING = 1
    DROPPED = 2


def reading_key(connection: Connection, at: Creation) -> str:
    """The key of the rows that a request means. If every creation was dropped, it is a key that no row has."""
    if at.creation_id:
        return at.creation_id
    known = _of(connection, at.collection)
    if live := _newest_live(known):
        return live
    # An older version that runs beside this one stores images without registering their creation.
    return at.collection if at.collection not in {row.creation_id for row in known} else ""


def claim(connection: Connection, at: Creation) -> str:
    """The key for new images. Until the transaction ends, the creation cannot be dropped.

    Raises CollectionNotFound if the creation was dropped before.
    """
    key = at.creation_id or _writing_key(connection, at.collection)
    found = _locked(connection, key)
    if found is None:
        _register(connection, key, at.collection, State.LIVE, keep=True)
        found = _locked(connection, key)
    if found is None or (found.collection, found.state) != (at.collection, State.LIVE):
        raise CollectionNotFound(at.collection)
    return key


def mark(connection: Connection, key: str, collection: str, state: State) -> None:
    """Mark a creation as dropped. Waits for running puts. Later puts are refused."""
    _register(connection, key, collection, state, keep=False)


def remaining(connection: Connection, collection: str) -> list[str]:
    """The creations that have images or may get them, newest first."""
    return [row.creation_id for row in _of(connection, collection) if row.state != State.DROPPED]


def _of(connection: Connection, collection: str) -> Sequence[Row[Any, Any]]:
    statement = (
        select(creations.c.creation_id, creations.c.state)
        .where(creations.c.collection == collection)
        .order_by(creations.c.register_time_ms.desc(), creations.c.creation_id.desc())
    )
    return connection.execute(statement).all()


def _newest_live(known: Sequence[Row[Any, Any]]) -> str:
    return next((row.creation_id for row in known if row.state == State.LIVE), "")


def _writing_key(connection: Connection, collection: str) -> str:
    """The creation for a caller that names none. Concurrent callers get the same one."""
    known = _of(connection, collection)
    if live := _newest_live(known):
        return live
    if collection not in {row.creation_id for row in known}:
        return collection
    return "C" + hashlib.sha256(f"{collection} {len(known)}".encode()).hexdigest()[:32]


def _locked(connection: Connection, key: str) -> Row[Any, Any] | None:
    """Lock the creation against a drop. Many puts share the lock. SQLite has only one writer."""
    statement = select(creations.c.collection, creations.c.state).where(creations.c.creation_id == key)
    return connection.execute(statement.with_for_update(read=True)).one_or_none()


def _register(connection: Connection, key: str, collection: str, state: State, keep: bool) -> None:
    """Set the state of a creation. With `keep`, an existing row stays unchanged."""
    row = {
        "creation_id": key,
        "collection": collection,
        "state": int(state),
        "register_time_ms": int(time.time() * 1000),
    }
    changed = creations.c.state if keep else int(state)
    if connection.dialect.name == "sqlite":
        insert = sqlite_insert(creations).values(row)
        connection.execute(insert.on_conflict_do_update(index_elements=["creation_id"], set_={"state": changed}))
    else:
        connection.execute(mysql_insert(creations).values(row).on_duplicate_key_update(state=changed))
