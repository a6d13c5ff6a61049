"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Gateway = Annotated[str, typer.Option(envvar="WENTU_GATEWAY", help="Address of the gateway.")]
Collection = Annotated[str, typer.Option("--collection", "-c", envvar="WENTU_COLLECTION", help="The collection.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
GATEWAY = "127.0.0.1:50050"
COLLECTION = "images"
PRECISION_NOTE = "the encoder computes in another precision than the collection's vectors: see `wentu status`"
