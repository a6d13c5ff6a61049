"""`wentu up`: the four services on this machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.up import UpError, services, up

console = Console()


def up_command(
    data: Annotated[Path, typer.Option(help="Folder for the embedded stores and the logs.")] = Path("wentu-data"),
    model: Annotated[str, typer.Option(help="demo, a name of cn_clip, a checkpoint file or folder.")] = "demo",
    old_model: Annotated[str, typer.Option(help="The model that collections still have: they stay searchable.")] = "",
    milvus: Annotated[str, typer.Option(help="A Milvus server instead of the embedded one: http://host:19530.")] = "",
    mysql: Annotated[str, typer.Option(help="A MySQL server instead of SQLite: mysql://user:pw@host/db.")] = "",
    host: Annotated[str, typer.Option(help="Address that the gateway listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the gateway; the others take the next three.")] = 50050,
) -> None:
    """Run all four services here until Ctrl-C."""
    wanted = services(data, host, port, model, milvus, mysql, old_model)
    try:
        asyncio.run(up(wanted, data, console))
    except UpError as error:
        sys.exit(f"wentu: {error}")
