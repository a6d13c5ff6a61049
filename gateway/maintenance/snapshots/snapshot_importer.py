"""Reads a collection from files, with one pair of files on disk at a time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import structlog

from gateway.ingest.agreement import Agreement, StoredImage, Vectors
from gateway.maintenance.snapshots.layout import IMAGES, SETTINGS, VECTORS, record
from gateway.maintenance.snapshots.snapshot_files import (
    MAX_UNPACKED_BYTES,
    Row,
    Rows,
    contents,
    read_rows,
    read_settings,
)
from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.encoding import batches
from protos import admin_pb2 as pb
from protos import imagestore_pb2, retriever_pb2
from services.common.errors import Code, InvalidField, UpstreamUnavailable, WentuError
from services.common.fingerprint import Fingerprint
from services.common.ids import check_collection

log = structlog.get_logger()

MAX_SETTINGS_BYTES = 64 * 1024
# A tar file, the only large one, is in the folder for temporary files while it is read. An import has one at a time.
MAX_IMAGES_BYTES = 64 * 1024**3
# Imports at once. Each holds the rows of a file in memory. Others wait.
IMPORTS_AT_ONCE = 2
_KEPT = ("media_type", "width", "height")


@dataclass(frozen=True)
class SnapshotImage:
    """An image of a snapshot: its vector with attributes, its bytes, and other stored facts by name."""

    record: retriever_pb2.VectorRecord
    data: bytes
    kept: dict[str, Any]

    @classmethod
    def of(cls, row: Row, data: bytes) -> SnapshotImage:
        return cls(record(row), data, {name: row[name] for name in _KEPT})


class SnapshotImporter:
    """Imports collections."""

    def __init__(self, clients: Clients, limits: GatewaySettings) -> None:
        self._clients = clients
        self._limits = limits
        self._turns = asyncio.Semaphore(IMPORTS_AT_ONCE)

    async def run(self, requests: AsyncIterator[pb.ImportSnapshotRequest]) -> int:
        """Import a collection. Returns its number of images. If anything fails, the new collection is removed.

        Raises CollectionExists, InvalidField, ChecksumMismatch.
        """
        async with self._turns:
            return await self._run(_files(requests))

    async def _run(self, files: AsyncIterator[tuple[str, str, IO[bytes]]]) -> int:
        first = await anext(files, None)
        if first is None or first[1] != SETTINGS:
            raise InvalidField("part.file_name", f"{SETTINGS} must come first")
        wanted = await asyncio.to_thread(read_settings, first[2], first[0])
        with _refusing(SETTINGS):
            made = await self._clients.retriever.create_vectors(wanted)
        try:
            return await self._rest(made, files)
        except BaseException:
            await asyncio.shield(self._remove(made))
            raise

    async def _rest(
        self, made: retriever_pb2.VectorCollection, files: AsyncIterator[tuple[str, str, IO[bytes]]]
    ) -> int:
        count = 0
        rows: Rows | None = None
        async for _, name, file in files:
            if VECTORS.fullmatch(name) and rows is None:
                rows = await asyncio.to_thread(read_rows, file, name, made.model.dim)
            elif IMAGES.fullmatch(name) and rows is not None:
                count += await self._some(made, rows, file, name)
                rows = None
            else:
                raise InvalidField("part.file_name", f"{name[:80]!r} is not the file that comes next")
        if rows is not None:
            raise InvalidField("part", "is missing: the snapshot is not whole")
        return count

    async def _some(self, collection: retriever_pb2.VectorCollection, rows: Rows, file: IO[bytes], name: str) -> int:
        wanted = dict(rows.by_content)
        # A thread reads, checks and parses one batch at a time.
        images: Iterator[SnapshotImage] = (
            SnapshotImage.of(rows.row(*at), data)
            for sha256, data in contents(file, name, self._limits.max_image_bytes)
            for at in wanted.pop(sha256, ())
        )
        some = batches(images, lambda image: len(image.data), self._limits)
        while batch := await asyncio.to_thread(next, some, None):
            with _refusing(name):
                await self._write(collection, batch)
        if wanted:
            raise InvalidField(
                "part.chunk", f"{name}: the bytes of {len(wanted)} contents are missing, {min(wanted)} first"
            )
        return len(rows)

    async def _write(self, collection: retriever_pb2.VectorCollection, images: Sequence[SnapshotImage]) -> None:
        """Write the bytes first, then the vectors."""
        blobs = [
            imagestore_pb2.BlobUpload(
                image_id=image.record.image_id, data=image.data, attributes=image.record.attributes, **image.kept
            )
            for image in images
        ]
        put = await self._clients.imagestore.put_blobs(collection.collection, blobs, creation_id=collection.creation_id)
        stored = [
            StoredImage(
                image.record.image_id, image.data, image.record.attributes, image.record.content_sha256, revision
            )
            for image, revision in zip(images, put.revisions, strict=True)
        ]
        vectors = Vectors({image.record.image_id: image.record.embedding for image in images})
        agreement = Agreement(self._clients, self._limits, collection.collection, collection.creation_id)
        errors = await agreement.write(stored, {Fingerprint.from_message(collection.model): vectors})
        for error in errors.values():
            raise error

    async def _remove(self, made: retriever_pb2.VectorCollection) -> None:
        name = made.collection
        try:
            await self._clients.collections.drop(name)
            await self._clients.imagestore.drop_blobs(name, creation_id=made.creation_id)
        except WentuError as error:
            log.warning("a snapshot that failed is left half imported", collection=name, problem=error.message)


async def _files(requests: AsyncIterator[pb.ImportSnapshotRequest]) -> AsyncIterator[tuple[str, str, IO[bytes]]]:
    """The collection's id, and the name and bytes of each file when it is complete."""
    collection = name = ""
    file: IO[bytes] | None = None
    try:
        async for request in requests:
            if not collection:
                collection = check_collection(request.collection)
            if file is None or request.part.file_name != name:
                if file is not None:
                    file.seek(0)
                    yield collection, name, file
                    file.close()
                name, file = request.part.file_name, tempfile.TemporaryFile()  # noqa: SIM115  # closed below
            limit = _most_bytes(name)
            if file.tell() + len(request.part.chunk) > limit:
                raise InvalidField("part.chunk", f"{name[:80]!r} has more than {limit:,} bytes")
            try:
                await asyncio.to_thread(file.write, request.part.chunk)
            except OSError as error:
                raise UpstreamUnavailable("the gateway's folder for temporary files", str(error.strerror)) from error
        if file is not None:
            file.seek(0)
            yield collection, name, file
    finally:
        if file is not None:
            file.close()


def _most_bytes(name: str) -> int:
    if name == SETTINGS:
        return MAX_SETTINGS_BYTES
    return MAX_IMAGES_BYTES if IMAGES.fullmatch(name) else MAX_UNPACKED_BYTES


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Add the file's name to errors of other services about its contents."""
    try:
        yield
    except WentuError as error:
        if error.code is not Code.INVALID_ARGUMENT:
            raise
        raise InvalidField("part.chunk", f"{name}: {error.message}") from error
