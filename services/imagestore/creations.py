"""The creations of collections: which one a request means, and which take images.

A collection that is deleted and created again is another creation of the same id. Rows of images are keyed by creation.
The first image that is put into a creation registers it. One that is dropped stays registered as dropped, so that a put
that is still under way somewhere cannot bring it back.
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
    # Takes no images any more; some may not be removed yet.
    DROPPING = 1
    DROPPED = 2


def reading_key(connection: Connection, at: Creation) -> str:
    """The key of the rows that a request means; one that no row has if every creation was dropped."""
    if at.creation_id:
        return at.creation_id
    known = _of(connection, at.collection)
    if live := _newest_live(known):
        return live
    # Images that an older version stores beside this one have a creation that nobody registered.
    return at.collection if at.collection not in {row.creation_id for row in known} else ""


def claim(connection: Connection, at: Creation) -> str:
    """The key for images that are put; it cannot be dropped before the transaction ends.

    Raises CollectionNotFound if it was dropped.
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
    """Waits for puts that are under way; those that come later are refused."""
    _register(connection, key, collection, state, keep=False)


def remaining(connection: Connection, collection: str) -> list[str]:
    """The creations that have, or may get, images; newest first."""
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
    """For a caller that names no creation. Callers that come at once get the same."""
    known = _of(connection, collection)
    if live := _newest_live(known):
        return live
    if collection not in {row.creation_id for row in known}:
        return collection
    return "C" + hashlib.sha256(f"{collection} {len(known)}".encode()).hexdigest()[:32]


def _locked(connection: Connection, key: str) -> Row[Any, Any] | None:
    """Many puts share the lock. SQLite has one writer anyhow."""
    statement = select(creations.c.collection, creations.c.state).where(creations.c.creation_id == key)
    return connection.execute(statement.with_for_update(read=True)).one_or_none()


def _register(connection: Connection, key: str, collection: str, state: State, keep: bool) -> None:
    """Sets the state; `keep`: only of a creation that is not there."""
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
