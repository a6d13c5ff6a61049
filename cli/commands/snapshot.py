"""`wentu snapshot`: a whole collection to files and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import grpc
import typer

from cli.client import Requests, connected
from cli.errors import CommandError
from cli.options import GATEWAY, Gateway
from cli.terminal import say
from protos import admin_pb2 as pb
from services.common.limits import CHUNK_BYTES

# settings.json, then vectors-00000.parquet and images-00000.tar, and so on.
FIRST = "settings.json"
snapshot_app = typer.Typer(help="Write a collection to files, and read it back.", no_args_is_help=True)


@snapshot_app.command("export")
def export_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the files.")],
    gateway: Gateway = GATEWAY,
) -> None:
    """Write a collection as Parquet and tar. The folder has its name once it is whole."""
    if folder.exists():
        raise CommandError(f"{folder} exists")
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for left in partial.iterdir():
        left.unlink()
    size = 0
    with connected(gateway) as client:
        file = None
        for response in client.admin.ExportSnapshot(pb.ExportSnapshotRequest(collection=collection)):
            name = Path(response.part.file_name).name
            if file is None or Path(file.name).name != name:
                if file is not None:
                    _close(file)
                file = (partial / name).open("xb")
            file.write(response.part.chunk)
            size += len(response.part.chunk)
        if file is not None:
            _close(file)
    partial.rename(folder)
    say(f"{folder}: {len(list(folder.iterdir()))} files, {size / 1e6:,.1f} MB")


@snapshot_app.command("import")
def import_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a snapshot.")],
    collection: Annotated[str, typer.Argument(help="Id of the new collection.")],
    gateway: Gateway = GATEWAY,
) -> None:
    """Read a snapshot into a new collection. Nothing is encoded: the vectors are in it."""
    if not (folder / FIRST).is_file():
        raise CommandError(f"{folder} is not a snapshot: it has no {FIRST}")
    requests = Requests(_requests(folder, collection))
    with connected(gateway) as client:
        call = client.admin.ImportSnapshot.future(iter(requests))
        # A snapshot that ends early must not pass for a whole one.
        requests.on_error = call.cancel
        if requests.error is not None:  # the iterator failed before that line
            call.cancel()
        try:
            response = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            if requests.error is not None:
                raise requests.error from None
            raise
    say(f"{collection}: {response.image_count:,} images")


def _requests(folder: Path, collection: str) -> Iterator[pb.ImportSnapshotRequest]:
    numbers = sorted(path.stem.removeprefix("vectors-") for path in folder.glob("vectors-*.parquet"))
    names = [FIRST, *(name for number in numbers for name in (f"vectors-{number}.parquet", f"images-{number}.tar"))]
    for name in names:
        with (folder / name).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                part = pb.SnapshotChunk(file_name=name, chunk=chunk)
                yield pb.ImportSnapshotRequest(collection=collection, part=part)


def _close(file: BinaryIO) -> None:
    """Write a file to the disk before the folder gets its final name."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
