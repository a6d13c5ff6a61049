"""The image store beside PyMySQL, and beside a table of base64 text without an index, on one MariaDB."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pymysql

from bench.report import Report, bare_call_ms
from protos import imagestore_pb2 as pb
from protos import imagestore_pb2_grpc

SIZE_BYTES = 4096
BATCH = 64
COMPARED = 100  # batches that each side writes, in turns
PAGE = 20
READS = 600
SCANS = 5
COLLECTION = "bench"


def name(number: int) -> str:
    return f"image/{number:09}"


def contents(rng: np.random.Generator, count: int) -> Iterator[list[tuple[str, bytes]]]:
    for first in range(0, count, BATCH):
        yield [(name(number), rng.bytes(SIZE_BYTES)) for number in range(first, min(first + BATCH, count))]


def measure(report: Report, database: str, imagestore: str, count: int) -> None:
    """Run the whole benchmark against a MariaDB and an image store that are running."""
    port = int(database.rpartition(":")[2].partition("/")[0])
    with (
        pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=False) as connection,
        grpc.insecure_channel(imagestore, [("grpc.max_receive_message_length", -1)]) as channel,
    ):
        stub = imagestore_pb2_grpc.ImageStoreServiceStub(channel)
        cursor = connection.cursor()
        cursor.execute("CREATE DATABASE bench CHARACTER SET utf8mb4")
        cursor.execute("USE bench")
        cursor.execute("CREATE TABLE direct (id VARBINARY(255) PRIMARY KEY, sha256 BINARY(32), data LONGBLOB)")
        cursor.execute("CREATE TABLE tutorial (id TEXT, img LONGTEXT)")
        write(report, stub, connection, count)
        report.row("a call that computes nothing, p50", f"{bare_call_ms(channel):.2f} ms")
        read(report, stub, connection, count)


def write(report: Report, stub: Any, connection: Any, count: int) -> None:
    cursor = connection.cursor()
    took = {"ours": 0.0, "direct": 0.0, "tutorial": 0.0, "rest": 0.0}

    def timed(side: str, started: float) -> None:
        took[side] += time.perf_counter() - started

    for number, some in enumerate(contents(np.random.default_rng(0), count)):
        message = pb.PutBlobsRequest(
            collection=COLLECTION,
            creation_id=COLLECTION,
            blobs=[pb.BlobUpload(image_id=key, data=data) for key, data in some],
        )
        started = time.perf_counter()
        stub.PutBlobs(message)
        timed("ours" if number < COMPARED else "rest", started)
        if number < COMPARED:
            started = time.perf_counter()
            rows = [(key.encode(), hashlib.sha256(data).digest(), data) for key, data in some]
            cursor.executemany("INSERT INTO direct VALUES (%s, %s, %s)", rows)
            connection.commit()
            timed("direct", started)
        started = time.perf_counter()
        for key, data in some:
            cursor.execute("INSERT INTO tutorial VALUES (%s, %s)", (key, base64.b64encode(data).decode()))
        connection.commit()
        if number < COMPARED:
            timed("tutorial", started)
    compared = min(COMPARED * BATCH, count)
    for side, words in (("direct", "PyMySQL, the same batches"), ("tutorial", "TEXT, base64, a row a statement")):
        report.row(
            f"{BATCH} blobs of {SIZE_BYTES:,} bytes a commit, the first {compared:,}",
            f"{compared / took['ours']:,.0f} blobs/s",
            f"{words}: {compared / took[side]:,.0f} blobs/s",
            f"{took[side] / took['ours']:.0%}",
        )
    if took["rest"]:
        report.row(f"the other {count - compared:,} blobs", f"{(count - compared) / took['rest']:,.0f} blobs/s")


def read(report: Report, stub: Any, connection: Any, count: int) -> None:
    cursor = connection.cursor()
    connection.autocommit(True)
    places = ", ".join(["%s"] * PAGE)

    def through(keys: Sequence[str]) -> int:
        request = pb.GetBlobsRequest(collection=COLLECTION, creation_id=COLLECTION, image_ids=keys, include_data=True)
        return sum(len(blob.data) for blob in stub.GetBlobs(request).blobs)

    def direct(keys: Sequence[str]) -> int:
        cursor.execute(
            f"SELECT image_id, data FROM wentu.images JOIN wentu.contents USING (collection, sha256)"
            f" WHERE collection = %s AND image_id IN ({places})",
            (COLLECTION, *(key.encode() for key in keys)),
        )
        return sum(len(data) for _, data in cursor.fetchall())

    def tutorial(keys: Sequence[str]) -> int:
        cursor.execute(f"SELECT id, img FROM tutorial WHERE id IN ({places})", tuple(keys))
        return sum(len(base64.b64decode(data)) for _, data in cursor.fetchall())

    rng = np.random.default_rng(1)
    # The first reader takes pages from the disk, and the second from memory. So each side is first once.
    first: dict[str, list[float]] = {"ours": [], "direct": [], "tutorial": []}
    again: dict[str, list[float]] = {"ours": [], "direct": []}
    for turn in range(READS):
        keys = [name(int(number)) for number in rng.choice(count, PAGE, replace=False)]
        ways = [("ours", through), ("direct", direct)][:: 1 if turn % 2 else -1]
        asked = [(first, *ways[0]), (again, *ways[1])]
        if turn < SCANS:
            asked.append((first, "tutorial", tutorial))
        for times, side, ask in asked:
            started = time.perf_counter()
            assert ask(keys) == PAGE * SIZE_BYTES
            times[side].append((time.perf_counter() - started) * 1000)
    for times, when in ((again, "in memory"), (first, "on the disk")):
        what = f"{PAGE} random blobs of {count:,}, {when}"
        report.latencies(what, times["ours"], "PyMySQL", times["direct"], "+3 ms")
    mine, other = (float(np.median(first[side])) for side in ("ours", "tutorial"))
    report.row(
        f"{PAGE} random blobs of {count:,}, on the disk", f"{mine:.2f} ms",
        f"TEXT key, no index, base64: {other:,.0f} ms", f"{other / mine:,.0f} x",
    )  # fmt: skip
