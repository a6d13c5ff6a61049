"""Parses a snapshot's files, which may be damaged or hostile. Memory is bounded, and each error names the file.

The functions block, so they run on threads.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gateway.maintenance.snapshots.layout import MEMBER, SETTINGS, creation, record, schema
from protos import retriever_pb2
from services.common.attributes import check_attributes
from services.common.errors import ChecksumMismatch, ImageTooLarge, InvalidField, WentuError
from services.common.ids import check_distinct, check_image_id, check_sha256
from services.common.limits import MAX_ATTRIBUTES_BYTES, MAX_IMAGE_ID_BYTES, MAX_MEDIA_TYPE_CHARS, MIB

FIELD = "part.chunk"
MAX_ROWS = 100_000
# The memory for the rows of one file. Vectors take most of it.
MAX_UNPACKED_BYTES = 256 * MIB
ROWS_AT_ONCE = 1000
# Headers of pax and GNU tar are skipped, since nothing in them is needed.
_PASSED_OVER = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
MAX_PASSED_OVER_BYTES = 64 * 1024
# Limits of single values in bytes. A dictionary can repeat a large value without using space in the file.
_VALUE_BYTES = {
    "image_id": MAX_IMAGE_ID_BYTES,
    "attributes": 8 * MAX_ATTRIBUTES_BYTES,  # of JSON, which is larger than the message
    "sha256": 64,
    "media_type": 4 * MAX_MEDIA_TYPE_CHARS,
    "made_from": 64,
}
Row = dict[str, Any]


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns every error of a parser on damaged bytes into InvalidField with the file's name `name`."""
    try:
        yield
    except WentuError as error:
        raise _named(error, name) from error
    except MemoryError as error:
        raise InvalidField(FIELD, f"{name} does not fit in memory") from error
    except Exception as error:  # Arrow alone raises a dozen kinds of errors, OSError among them
        problem = str(error).partition("\n")[0][:200] or type(error).__name__
        raise InvalidField(FIELD, f"{name} is damaged: {problem}") from error


def _named(error: WentuError, name: str) -> WentuError:
    problem = error.problem if error.field == FIELD and isinstance(error, InvalidField) else error.message
    if not isinstance(error, InvalidField):
        return error
    return type(error)(FIELD, problem if name in problem else f"{name}: {problem}")


def read_settings(file: IO[bytes], collection: str) -> retriever_pb2.CreateVectorCollectionRequest:
    with reading(SETTINGS):
        try:
            found = json.load(file)
        except RecursionError as error:
            raise InvalidField(FIELD, f"{SETTINGS} is nested too deep") from error
        except ValueError as error:
            raise InvalidField(FIELD, f"{SETTINGS} is not JSON") from error
        return creation(collection, found)


class Rows:
    """The rows of a Parquet file in Arrow's form. Python objects would take ten times the memory."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self._batches = batches
        self.by_content: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, batch in enumerate(batches):
            for place, sha256 in enumerate(batch.column("sha256").to_pylist()):
                self.by_content[sha256].append((number, place))

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def row(self, number: int, place: int) -> Row:
        [row] = self._batches[number].slice(place, 1).to_pylist()
        return dict(row)


def read_rows(file: IO[bytes], name: str, dim: int) -> Rows:
    """Raises InvalidField if the file is not Parquet of the layout, or needs too much memory."""
    with reading(name):
        wanted = schema(dim)
        strings = [field.name for field in wanted if pa.types.is_string(field.type)]
        # Read as dictionaries, so that repeated values are checked before they are unpacked.
        parquet = pq.ParquetFile(file, read_dictionary=strings, page_checksum_verification=True, pre_buffer=False)
        _check_sizes(parquet.metadata, parquet.schema_arrow.names, wanted)
        batches: list[pa.RecordBatch] = []
        ids: list[str] = []
        size = 0
        for batch in parquet.iter_batches(ROWS_AT_ONCE, use_threads=False):
            batch.validate(full=True)
            size += batch.num_rows * dim * 4 + sum(_unpacked_bytes(column, batch.column(column)) for column in strings)
            if size > MAX_UNPACKED_BYTES:
                raise _too_large(size)
            unpacked = pa.Table.from_batches([batch]).cast(wanted).combine_chunks().to_batches()
            for each in unpacked:
                each.validate(full=True)
                _check_rows(each)
                ids += each.column("image_id").to_pylist()
            batches += unpacked
        check_distinct(ids, "image_id")
        if len(ids) != parquet.metadata.num_rows:
            raise InvalidField(FIELD, f"{name} has {len(ids)} of {parquet.metadata.num_rows} rows")
        return Rows(batches)


def contents(file: IO[bytes], name: str, max_image_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Checksum and bytes of each member of a tar file. Nothing is unpacked onto the disk.

    Raises InvalidField, ImageTooLarge, ChecksumMismatch.
    """
    while True:
        with reading(name):
            found = _member(file, max_image_bytes)
        if found is None:
            return
        yield found


def _member(file: IO[bytes], max_image_bytes: int) -> tuple[str, bytes] | None:
    """The next member. tarfile itself would read headers of any size into memory, and treat damage as the end."""
    while True:
        block = file.read(tarfile.BLOCKSIZE)
        if not block.strip(b"\0"):
            return None
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.type in _PASSED_OVER and 0 <= member.size <= MAX_PASSED_OVER_BYTES:
            _data(file, member.size)
            continue
        match = MEMBER.fullmatch(member.name)
        if not match or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
            raise InvalidField(FIELD, f"{member.name[:80]!r} is not a member of a snapshot")
        if member.size > max_image_bytes:
            raise ImageTooLarge(FIELD, f"{member.name} has more than {max_image_bytes:,} bytes")
        data = _data(file, member.size)
        if hashlib.sha256(data).hexdigest() != match.group(1):
            raise ChecksumMismatch(FIELD, f"the bytes of {member.name} are not those of its name")
        return match.group(1), data


def _data(file: IO[bytes], size: int) -> bytes:
    """The bytes of a member, without the padding of its last block."""
    whole = size + -size % tarfile.BLOCKSIZE
    data = file.read(whole)
    if len(data) != whole:
        raise InvalidField(FIELD, "ends in the middle of a member")
    return data[:size]


def _check_sizes(metadata: pq.FileMetaData, names: list[str], wanted: pa.Schema) -> None:
    """Check the sizes in the file's metadata before anything is unpacked."""
    if names != wanted.names:
        raise InvalidField(FIELD, f"must have the columns {', '.join(wanted.names)}")
    if not 0 < metadata.num_rows <= MAX_ROWS:
        raise InvalidField(FIELD, f"must have 1 to {MAX_ROWS:,} rows")
    dim = wanted.field("embedding").type.list_size
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [metadata.num_rows * dim * 4, *(group.total_byte_size for group in groups)]
    sizes += [
        sum(group.column(number).total_uncompressed_size for group in groups) for number in range(metadata.num_columns)
    ]
    for size in sizes:
        if not 0 <= size <= MAX_UNPACKED_BYTES:
            raise _too_large(size)


def _unpacked_bytes(column: str, values: pa.Array) -> int:
    """The size of a column's values after unpacking. Each value must have a bounded length."""
    packed = isinstance(values, pa.DictionaryArray)
    lengths = pc.binary_length(values.dictionary if packed else values)
    longest = pc.max(lengths).as_py() or 0
    if longest > _VALUE_BYTES[column]:
        raise InvalidField(FIELD, f"{column} has a value of {longest:,} bytes; the limit is {_VALUE_BYTES[column]:,}")
    return int(pc.sum(lengths.take(values.indices) if packed else lengths).as_py() or 0)


def _check_rows(batch: pa.RecordBatch) -> None:
    """Refuse values that the services would refuse later without the file's name."""
    for row in batch.drop_columns(["embedding"]).to_pylist():
        check_image_id(row["image_id"])
        check_sha256(row["sha256"], "sha256")
        check_sha256(row["made_from"], "made_from")
        check_attributes(record({**row, "embedding": ()}).attributes, "attributes")


def _too_large(size: int) -> InvalidField:
    return InvalidField(FIELD, f"unpacks to {size:,} bytes; the limit is {MAX_UNPACKED_BYTES:,}")
