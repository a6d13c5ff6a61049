"""Reading a collection from files, a pair of files on disk at a time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from google.protobuf import json_format

from gateway.agreement import Agreement, StoredImage, Vectors
from gateway.clients import Clients
from gateway.encoding import batches
from gateway.settings import GatewaySettings
from gateway.snapshots.layout import IMAGES, MEMBER, SETTINGS, VECTORS, creation, record, schema
from protos import admin_pb2 as pb
from protos import imagestore_pb2, retriever_pb2
from services.common.errors import ChecksumMismatch, ImageTooLarge, InvalidField, WentuError
from services.common.fingerprint import Fingerprint
from services.common.ids import check_collection

log = structlog.get_logger()

MAX_SETTINGS_BYTES = 64 * 1024
MAX_ROWS = 100_000
MAX_FILE_BYTES = 64 * 1024**3
Row = dict[str, Any]
_KEPT = ("media_type", "width", "height")


class Importer:
    """Makes collections."""

    def __init__(self, clients: Clients, limits: GatewaySettings) -> None:
        self._clients = clients
        self._limits = limits

    async def run(self, requests: AsyncIterator[pb.ImportSnapshotRequest]) -> int:
        """The number of pictures in the new collection, which is removed again where anything fails.

        Raises CollectionExists, InvalidField, ChecksumMismatch.
        """
        files = _files(requests)
        first = await anext(files, None)
        if first is None or first[1] != SETTINGS:
            raise InvalidField("part.file_name", f"{SETTINGS} must come first")
        made = await self._clients.create_vectors(creation(first[0], _json(first[2])))
        try:
            return await self._rest(made, files)
        except BaseException:
            await asyncio.shield(self._remove(made))
            raise

    async def _rest(
        self, made: retriever_pb2.VectorCollection, files: AsyncIterator[tuple[str, str, IO[bytes]]]
    ) -> int:
        count = 0
        rows: list[Row] = []
        async for _, name, file in files:
            if VECTORS.fullmatch(name) and not rows:
                rows = await asyncio.to_thread(_rows, file, made.model.dim)
            elif IMAGES.fullmatch(name) and rows:
                count += await self._some(made, rows, file)
                rows = []
            else:
                raise InvalidField("part.file_name", f"{name[:80]!r} is not the file that comes next")
        if rows:
            raise InvalidField("part", "is missing: the snapshot is not whole")
        return count

    async def _some(self, collection: retriever_pb2.VectorCollection, rows: list[Row], file: IO[bytes]) -> int:
        wanted: defaultdict[str, list[Row]] = defaultdict(list)
        for each in rows:
            wanted[each["sha256"]].append(each)
        pairs = (
            (each, data)
            for sha256, data in _contents(file, self._limits.max_image_bytes)
            for each in wanted.pop(sha256, ())
        )
        for batch in batches(pairs, lambda pair: len(pair[1]), self._limits):
            await self._write(collection, batch)
        if wanted:
            raise InvalidField("part.chunk", f"the bytes of {len(wanted)} contents are missing, {min(wanted)} first")
        return len(rows)

    async def _write(self, collection: retriever_pb2.VectorCollection, pairs: list[tuple[Row, bytes]]) -> None:
        """Bytes first, then vectors."""
        records = [record(each) for each, _ in pairs]
        blobs = [
            imagestore_pb2.BlobUpload(
                image_id=made.image_id, data=data, attributes=made.attributes, **{name: each[name] for name in _KEPT}
            )
            for made, (each, data) in zip(records, pairs, strict=True)
        ]
        put = await self._clients.put_blobs(collection.collection, blobs, creation_id=collection.creation_id)
        images = [
            StoredImage(made.image_id, data, made.attributes, made.content_sha256, revision)
            for made, (_, data), revision in zip(records, pairs, put.revisions, strict=True)
        ]
        vectors = Vectors({made.image_id: made.embedding for made in records})
        agreement = Agreement(self._clients, self._limits, collection.collection, collection.creation_id)
        errors = await agreement.write(images, {Fingerprint.from_message(collection.model): vectors})
        for error in errors.values():
            raise error

    async def _remove(self, made: retriever_pb2.VectorCollection) -> None:
        name = made.collection
        try:
            await self._clients.drop_vectors(name)
            await self._clients.drop_blobs(name, creation_id=made.creation_id)
        except WentuError as error:
            log.warning("a snapshot that failed is left half imported", collection=name, problem=error.message)


async def _files(requests: AsyncIterator[pb.ImportSnapshotRequest]) -> AsyncIterator[tuple[str, str, IO[bytes]]]:
    """The collection's id, and each file's name and bytes, once it is whole."""
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
            await asyncio.to_thread(file.write, request.part.chunk)
            limit = MAX_SETTINGS_BYTES if name == SETTINGS else MAX_FILE_BYTES
            if file.tell() > limit:
                raise InvalidField("part.chunk", f"{name[:80]!r} has more than {limit:,} bytes")
        if file is not None:
            file.seek(0)
            yield collection, name, file
    finally:
        if file is not None:
            file.close()


def _json(file: IO[bytes]) -> Any:
    try:
        return json.load(file)
    except ValueError as error:
        raise InvalidField("part.chunk", f"{SETTINGS} is no JSON") from error


def _rows(file: IO[bytes], dim: int) -> list[Row]:
    """Raises InvalidField for what is no Parquet of the layout."""
    try:
        parquet = pq.ParquetFile(file)
        if parquet.metadata.num_rows > MAX_ROWS:
            raise InvalidField("part.chunk", f"a Parquet file must have at most {MAX_ROWS:,} rows")
        found: list[Row] = parquet.read().cast(schema(dim)).to_pylist()
        for each in found:
            record(each)
    except (pa.ArrowException, ValueError, KeyError, json_format.ParseError) as error:
        raise InvalidField("part.chunk", f"the Parquet file is not as it should be: {str(error)[:200]}") from error
    return found


def _contents(file: IO[bytes], max_image_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Checksum and bytes of each member. Nothing is unpacked onto the disk."""
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                match = MEMBER.fullmatch(member.name)
                if not match or not member.isfile():
                    raise InvalidField("part.chunk", f"{member.name[:80]!r} is no member of a snapshot")
                if member.size > max_image_bytes:
                    raise ImageTooLarge("part.chunk", f"{member.name} has more than {max_image_bytes:,} bytes")
                found = archive.extractfile(member)
                data = found.read() if found is not None else b""
                if hashlib.sha256(data).hexdigest() != match.group(1):
                    raise ChecksumMismatch("part.chunk", f"the bytes of {member.name} are not those of its name")
                yield match.group(1), data
    except tarfile.TarError as error:
        raise InvalidField("part.chunk", f"the tar file is not as it should be: {error}") from error
