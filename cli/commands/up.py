"""`wentu up`: the four services on this machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from cli.client import hang_seconds
from cli.terminal import say
from cli.up import data_folder
from cli.up.ports import MAX_PORT, places
from cli.up.services import NAMES, OLD_ENCODER, elsewhere, services
from cli.up.supervisor import Supervisor


def up_command(
    data: Annotated[Path, typer.Option(help="Folder for the embedded stores and the logs.")] = Path("wentu-data"),
    model: Annotated[
        str,
        typer.Option(envvar="WENTU_ENCODER_MODEL", help="demo, a name of cn_clip, a checkpoint file or folder."),
    ] = "demo",
    old_model: Annotated[str, typer.Option(help="The model that collections still have: they stay searchable.")] = "",
    architecture: Annotated[
        str,
        typer.Option(
            envvar="WENTU_ENCODER_ARCHITECTURE",
            help="For a checkpoint file without config.json: the name of cn_clip that it was tuned from.",
        ),
    ] = "",
    precision: Annotated[
        str,
        typer.Option(
            envvar="WENTU_ENCODER_PRECISION",
            help="f32, bf16 or f16, of both models; by default the encoder's own choice.",
        ),
    ] = "",
    milvus: Annotated[
        str,
        typer.Option(
            envvar="WENTU_RETRIEVER_MILVUS", help="A Milvus server instead of the embedded one: http://host:19530."
        ),
    ] = "",
    mysql: Annotated[
        str,
        typer.Option(
            envvar="WENTU_IMAGESTORE_DATABASE",
            help="A MySQL server instead of SQLite: mysql://user:pw@host/db. Other users of this machine can read a "
            "command line: a password is better in the environment variable, or in a MySQL option file: "
            "mysql://host/db?read_default_file=/FILE.",
        ),
    ] = "",
    host: Annotated[
        str, typer.Option(envvar="WENTU_GATEWAY_HOST", help="Address that the gateway listens on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            envvar="WENTU_GATEWAY_PORT",
            min=0,
            max=MAX_PORT,
            help="Port of the gateway; the others take the next three. 0 takes free ones.",
        ),
    ] = 50050,
    restart: Annotated[
        bool, typer.Option(help="Start a service again that dies or hangs; without it, all of them stop then.")
    ] = True,
) -> None:
    """Run all four services here until Ctrl-C.

    The services take their own environment variables too; a flag given here wins. A service whose address
    WENTU_GATEWAY_ENCODER, WENTU_GATEWAY_RETRIEVER or WENTU_GATEWAY_IMAGESTORE names is used there, not started here.
    """
    environment = os.environ
    distant = elsewhere(environment)
    names = [name for name in (*NAMES, *([OLD_ENCODER] if old_model else ())) if name not in distant]
    found = places(host, port, names, environment)
    others = environment.get("WENTU_GATEWAY_OTHER_ENCODERS", "")
    wanted = services(
        data.absolute(), found, model, milvus, mysql, old_model, architecture, precision, other_encoders=others
    )
    os.umask(0o077)  # the logs are for this user alone; the services do the same with their files
    with data_folder.held(data):
        for name, address in distant.items():
            say(f"{name}: not started here; WENTU_GATEWAY_{name.upper()} says {address}")
        supervisor = Supervisor(wanted, data / data_folder.LOGS, hang_seconds(), restart=restart)
        asyncio.run(supervisor.run())
