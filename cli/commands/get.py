"""`wentu get`: an image out of a collection."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.client import connected
from cli.options import COLLECTION, GATEWAY, Collection, Gateway
from protos import types_pb2

STANDARD_OUTPUT = Path("-")


def get_command(
    image_id: Annotated[str, typer.Argument(help="Id of the image.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; - is standard output.")],
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="The small image instead of the original.")] = False,
    collection: Collection = COLLECTION,
    gateway: Gateway = GATEWAY,
) -> None:
    """Write an image's file. Nothing is written unless all of it came."""
    rendition = types_pb2.RENDITION_THUMBNAIL if thumbnail else types_pb2.RENDITION_ORIGINAL
    with connected(gateway) as client:
        data = client.read_image(collection, image_id, rendition)
    if output == STANDARD_OUTPUT:
        sys.stdout.buffer.write(data)
    else:
        output.write_bytes(data)
