"""`wentu up`: the four services on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cli.terminal import console
from cli.up import services, up


def up_command(
    data: Annotated[Path, typer.Option(help="Folder for the embedded stores and the logs.")] = Path("wentu-data"),
    model: Annotated[str, typer.Option(help="demo, a name of cn_clip, a checkpoint file or folder.")] = "demo",
    old_model: Annotated[str, typer.Option(help="The model that collections still have: they stay searchable.")] = "",
    architecture: Annotated[
        str, typer.Option(help="For a checkpoint file without config.json: the name of cn_clip that it was tuned from.")
    ] = "",
    precision: Annotated[
        str, typer.Option(help="f32, bf16 or f16, of both models; by default the encoder's own choice.")
    ] = "",
    milvus: Annotated[str, typer.Option(help="A Milvus server instead of the embedded one: http://host:19530.")] = "",
    mysql: Annotated[str, typer.Option(help="A MySQL server instead of SQLite: mysql://user:pw@host/db.")] = "",
    host: Annotated[str, typer.Option(help="Address that the gateway listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the gateway; the others take the next three.")] = 50050,
) -> None:
    """Run all four services here until Ctrl-C."""
    wanted = services(data, host, port, model, milvus, mysql, old_model, architecture, precision)
    asyncio.run(up(wanted, data, console))
