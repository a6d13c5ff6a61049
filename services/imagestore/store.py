"""The store of images by (collection, id). Each content is stored once per collection."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, delete, exists, func, select, text
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.common.budget import ByteBudget, Share
from services.common.calls import seconds_left
from services.common.errors import DeadlineExceeded, ImageNotFound, ImageTooLarge, UpstreamUnavailable
from services.common.thread_pool import ThreadPool
from services.imagestore.creations import State, claim, mark, reading_key, remaining
from services.imagestore.database import Database, problem
from services.imagestore.reading import by_id, data_of, rows_after, with_bytes
from services.imagestore.records import Blob, Counts, Creation, Info, Upload
from services.imagestore.schema import contents, images, thumbnails
from services.imagestore.settings import ImageStoreSettings
from services.imagestore.thumbnails import make_thumbnail

log = structlog.get_logger()
Result = TypeVar("Result")

DROP_BATCH = 500
MAX_REVISION = 2**63 - 1


class BlobStore:
    """All operations of the image store on one database. They run on threads, within the caller's deadline."""

    def __init__(self, database: Database, settings: ImageStoreSettings) -> None:
        self.database = database
        self.settings = settings
        self._workers = ThreadPool(settings.threads, "database")
        # Separate threads: a thread that waits for memory must not block the threads of the database.
        self._thumbnailers = ThreadPool(os.cpu_count() or 1, "thumbnails")
        self._answers = ByteBudget(settings.max_bytes_in_hand, "answers with images")
        self._received = ByteBudget(settings.max_bytes_in_hand, "unfinished writes")
        self._decoding = ByteBudget(settings.max_decoding_bytes, "thumbnails")

    async def put(self, at: Creation, uploads: Sequence[Upload]) -> list[Info]:
        """Store all images in one commit. Existing ids are replaced. Raises ImageTooLarge, CollectionNotFound."""
        for place, upload in enumerate(uploads):
            limit = self.database.packet_excess(upload.data)
            if limit is not None:
                raise ImageTooLarge(
                    f"blobs[{place}].data",
                    f"has {len(upload.data):,} bytes, which the database's max_allowed_packet of {limit:,} cannot take",
                )
        return await self._run(self.database.write, lambda c: _put(c, claim(c, at), uploads))

    async def blobs(
        self,
        at: Creation,
        image_ids: Sequence[str],
        with_data: bool,
        with_thumbnails: bool,
        with_attributes: bool = False,
        max_bytes: int | None = None,
        share: Share | None = None,
    ) -> list[Blob]:
        """Infos of the images that exist, with their bytes or thumbnails. The ids must be distinct.

        `share`, of the budget for answers, is taken before the bytes are read, and may wait.
        Raises AnswerTooLarge if the bytes exceed `max_bytes`, and Overloaded.
        """

        collection = await self._key(at)

        def work(connection: Connection) -> list[Blob]:
            if not with_data:
                infos = by_id(connection, collection, image_ids, with_attributes)
                return [Blob(infos[image_id]) for image_id in image_ids if image_id in infos]
            found = with_bytes(connection, collection, image_ids, with_attributes, max_bytes)
            return [Blob(*found[image_id]) for image_id in image_ids if image_id in found]

        if with_data and share is not None:
            most = len(image_ids) * self.settings.max_image_bytes
            await share.wait(most if max_bytes is None else min(most, max_bytes), self._seconds())
        blobs = await self._run(self.database.read, work)
        if share is not None:
            share.shrink(sum(len(blob.data) for blob in blobs))
        if not with_thumbnails:
            return blobs
        small = await self._thumbnails(collection, {bytes.fromhex(blob.info.sha256) for blob in blobs})
        return [replace(blob, thumbnail=small.get(blob.info.sha256, b"")) for blob in blobs]

    async def one(self, at: Creation, image_id: str, thumbnail: bool, share: Share) -> Blob:
        """One image, as `blobs` does. Raises ImageNotFound, Overloaded."""
        found = await self.blobs(at, [image_id], with_data=not thumbnail, with_thumbnails=thumbnail, share=share)
        if not found or not (found[0].data or found[0].thumbnail):
            raise ImageNotFound(at.collection, image_id)
        return found[0]

    async def delete(
        self, at: Creation, image_ids: Sequence[str], revisions: Mapping[str, int] | None = None
    ) -> list[str]:
        """Delete images. Returns the ids that existed, in order. With `revisions`, only images that still have them."""
        collection = await self._key(at)
        gone = await self._run(self.database.write, lambda c: _delete(c, collection, image_ids, revisions))
        return [image_id for image_id in image_ids if image_id in gone]

    async def page(self, at: Creation, after: str, size: int, with_attributes: bool = False) -> list[Info]:
        """The infos of the `size` images with the smallest ids after `after`."""
        collection = await self._key(at)
        return await self._run(self.database.read, lambda c: rows_after(c, collection, after, size, with_attributes))

    async def count(self, at: Creation, images_only: bool = False) -> Counts:
        collection = await self._key(at)

        def work(connection: Connection) -> Counts:
            image_count = connection.execute(
                select(func.count()).select_from(images).where(images.c.collection == collection)
            ).scalar_one()
            if images_only:
                return Counts(image_count, 0, 0)
            number, size = connection.execute(
                select(func.count(), func.coalesce(func.sum(contents.c.size_bytes), 0)).where(
                    contents.c.collection == collection
                )
            ).one()
            return Counts(image_count, number, int(size))

        return await self._run(self.database.read, work)

    async def creations(self, collection: str) -> list[str]:
        """The creations that have images or may get them, newest first."""
        return await self._run(self.database.read, partial(remaining, collection=collection))

    async def drop(self, at: Creation) -> int:
        """Remove every image of one creation or of all, and refuse later ones. Returns the number of removed images."""
        creation_ids = [at.creation_id] if at.creation_id else await self.creations(at.collection)
        return sum([await self._drop(Creation(at.collection, creation_id)) for creation_id in creation_ids])

    async def _drop(self, at: Creation) -> int:
        """Remove some hundred images per commit. If it is interrupted, another drop finishes the work."""
        marking = partial(mark, key=at.creation_id, collection=at.collection)
        await self._run(self.database.write, partial(marking, state=State.DROPPING))
        removed = 0
        while page := await self.page(at, "", DROP_BATCH):
            removed += len(await self.delete(at, [info.image_id for info in page]))
        await self._run(self.database.write, partial(marking, state=State.DROPPED))
        return removed

    async def check(self) -> None:
        """Pass if the database answers."""
        await self._run(self.database.read, lambda c: c.execute(text("SELECT 1")).scalar_one())

    def answer(self) -> Share:
        """An empty share of the budget for answers."""
        return self._answers.share()

    def receipt(self) -> Share:
        """An empty share of the budget for unfinished writes."""
        return self._received.share()

    def close(self) -> None:
        self._thumbnailers.close()
        self._workers.close()
        self.database.close()

    async def _key(self, at: Creation) -> str:
        """The key of the rows of a creation."""
        return at.creation_id or await self._run(self.database.read, partial(reading_key, at=at))

    async def _run(
        self,
        way: Callable[[Callable[[Connection], Result]], Result],
        work: Callable[[Connection], Result],
        workers: ThreadPool | None = None,
    ) -> Result:
        try:
            async with asyncio.timeout(self._seconds()):
                return await (workers or self._workers).run(way, work)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.database.kind} did not answer in time") from error
        except (DBAPIError, PoolTimeout) as error:
            log.warning("database", problem=str(error.__cause__ or error)[:500])
            raise UpstreamUnavailable(self.database.kind, problem(error)) from error

    def _seconds(self) -> float:
        """Seconds that are left for this request."""
        left = seconds_left()
        return self.settings.timeout_seconds if left is None else min(left, self.settings.timeout_seconds)

    async def _thumbnails(self, collection: str, hashes: Iterable[bytes]) -> dict[str, bytes]:
        """Thumbnails by content. Missing ones are made and stored."""
        wanted = set(hashes)

        def kept(connection: Connection) -> dict[bytes, bytes]:
            statement = select(thumbnails.c.sha256, thumbnails.c.data).where(
                thumbnails.c.collection == collection, thumbnails.c.sha256.in_(wanted)
            )
            return {bytes(row.sha256): bytes(row.data) for row in connection.execute(statement)}

        found = await self._run(self.database.read, kept)
        for sha256 in sorted(wanted - found.keys()):
            make = partial(self._make_thumbnail, collection, sha256, time.monotonic() + self._seconds())
            data = await self._run(make, partial(data_of, collection=collection, sha256=sha256), self._thumbnailers)
            if data is not None:
                found[sha256] = data
        return {sha256.hex(): data for sha256, data in found.items()}

    def _make_thumbnail(
        self, collection: str, sha256: bytes, deadline: float, read: Callable[[Connection], bytes | None]
    ) -> bytes | None:
        """Read the original and make its thumbnail on one thread, so that few originals are in memory at once.

        A started thumbnail is finished and stored even if its caller left. Raises DeadlineExceeded.
        """
        data = self.database.read(read) if time.monotonic() < deadline else None
        if data is None:
            return None
        with self._decoding.share() as share:
            made = make_thumbnail(
                data,
                form=self.settings.thumbnail_format,
                side_pixels=self.settings.thumbnail_pixels,
                max_pixels=self.settings.max_image_pixels,
                claim=lambda size: share.take(size, max(0.0, deadline - time.monotonic())),
            )
        row = {"collection": collection, "sha256": sha256, "data": made}
        self.database.write(partial(_keep_thumbnail, row=row))
        return made


def _put(connection: Connection, collection: str, uploads: Sequence[Upload]) -> list[Info]:
    now = int(time.time() * 1000)
    hashes = [hashlib.sha256(upload.data).digest() for upload in uploads]
    data = {sha256: upload.data for sha256, upload in zip(hashes, uploads, strict=True)}
    image_ids = [upload.image_id for upload in uploads]
    replaced = {bytes.fromhex(info.sha256) for info in by_id(connection, collection, image_ids).values()}
    # Every writer locks contents before images, and both in order, so that writers rarely deadlock. A concurrent
    # delete either sees the new reference, or has removed the content before this lookup.
    present = _lock_contents(connection, collection, data.keys() | replaced)
    rows = [
        {"collection": collection, "sha256": sha256, "size_bytes": len(data[sha256]), "data": data[sha256]}
        for sha256 in sorted(data.keys() - present)
    ]
    if rows:
        connection.execute(_insert_content(connection), rows)
    # Read again under the locks: contents that were replaced since the first read must be released too.
    before = by_id(connection, collection, image_ids)
    replaced |= {bytes.fromhex(info.sha256) for info in before.values()}
    infos = []
    for upload, sha256 in zip(uploads, hashes, strict=True):
        known = before.get(upload.image_id)
        time_ms = known.create_time_ms if known is not None and known.sha256 == sha256.hex() else now
        infos.append(
            Info(
                image_id=upload.image_id,
                sha256=sha256.hex(),
                media_type=upload.media_type,
                size_bytes=len(upload.data),
                width=upload.width,
                height=upload.height,
                create_time_ms=time_ms,
                revision=1 + secrets.randbelow(MAX_REVISION),
                attributes=upload.attributes,
            )
        )
    in_order = sorted(infos, key=lambda info: info.image_id.encode())
    connection.execute(_upsert_image(connection), [_row(collection, info) for info in in_order])
    _release(connection, collection, replaced - data.keys())
    return infos


def _insert(connection: Connection) -> Any:
    return sqlite_insert if connection.dialect.name == "sqlite" else mysql_insert


def _insert_content(connection: Connection) -> Any:
    """Insert a content. Does nothing if it exists."""
    statement = _insert(connection)(contents)
    if connection.dialect.name == "sqlite":
        return statement.on_conflict_do_nothing()
    return statement.on_duplicate_key_update(size_bytes=contents.c.size_bytes)


def _upsert_image(connection: Connection) -> Any:
    statement = _insert(connection)(images)
    columns = [c.name for c in images.columns if not c.primary_key]
    if connection.dialect.name == "sqlite":
        return statement.on_conflict_do_update(set_={name: statement.excluded[name] for name in columns})
    return statement.on_duplicate_key_update({name: statement.inserted[name] for name in columns})


def _keep_thumbnail(connection: Connection, row: dict[str, Any]) -> None:
    """Store a thumbnail, if its content still exists."""
    if not _lock_contents(connection, row["collection"], [row["sha256"]]):
        return
    statement = _insert(connection)(thumbnails)
    if connection.dialect.name == "sqlite":
        connection.execute(statement.on_conflict_do_nothing(), row)
    else:
        connection.execute(statement.on_duplicate_key_update(data=statement.inserted.data), row)


def _lock_contents(connection: Connection, collection: str, hashes: Iterable[bytes]) -> set[bytes]:
    """The contents that exist. Their rows stay locked until the commit. SQLite has only one writer."""
    statement = (
        select(contents.c.sha256)
        .where(contents.c.collection == collection, contents.c.sha256.in_(sorted(hashes)))
        .order_by(contents.c.sha256)
        .with_for_update()
    )
    return {bytes(row.sha256) for row in connection.execute(statement)}


def _delete(
    connection: Connection, collection: str, image_ids: Sequence[str], revisions: Mapping[str, int] | None
) -> set[str]:
    hashes = {bytes.fromhex(info.sha256) for info in by_id(connection, collection, image_ids).values()}
    _lock_contents(connection, collection, hashes)
    before = by_id(connection, collection, image_ids)  # read again, since the image may have been replaced
    hashes |= {bytes.fromhex(info.sha256) for info in before.values()}
    chosen = (images.c.collection == collection) & images.c.image_id.in_([image_id.encode() for image_id in image_ids])
    if revisions is not None:
        before = {image_id: info for image_id, info in before.items() if info.revision == revisions[image_id]}
        chosen &= images.c.revision.in_([info.revision for info in before.values()])
    connection.execute(delete(images).where(chosen))
    _release(connection, collection, hashes)
    return set(before)


def _release(connection: Connection, collection: str, hashes: set[bytes]) -> None:
    """Remove the contents that no image refers to. Their rows must be locked."""
    if not hashes:
        return
    used = exists().where(images.c.collection == contents.c.collection, images.c.sha256 == contents.c.sha256)
    connection.execute(
        delete(contents).where(contents.c.collection == collection, contents.c.sha256.in_(sorted(hashes)), ~used)
    )
    kept = exists().where(contents.c.collection == thumbnails.c.collection, contents.c.sha256 == thumbnails.c.sha256)
    connection.execute(
        delete(thumbnails).where(thumbnails.c.collection == collection, thumbnails.c.sha256.in_(sorted(hashes)), ~kept)
    )


def _row(collection: str, info: Info) -> dict[str, Any]:
    return {
        "collection": collection,
        "image_id": info.image_id.encode(),
        "sha256": bytes.fromhex(info.sha256),
        "media_type": info.media_type,
        "size_bytes": info.size_bytes,
        "width": info.width,
        "height": info.height,
        "create_time_ms": info.create_time_ms,
        "attributes": info.attributes,
        "revision": info.revision,
    }
