"""`wentu`: the application and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.collections import collections_app
from cli.commands.delete import delete_command
from cli.commands.get import get_command
from cli.commands.import_images import import_command
from cli.commands.maintenance import reconcile_command, reembed_command
from cli.commands.search import search_command
from cli.commands.similarity import similarity_command
from cli.commands.snapshot import snapshot_app
from cli.commands.status import status_command
from cli.commands.up import up_command
from cli.commands.version import version_command, version_option
from cli.edge import Edge

app = typer.Typer(
    cls=Edge, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=version_option, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the program an error came from.")] = False,
) -> None:
    """Search images with a Chinese sentence."""


app.command("up")(up_command)
app.command("status")(status_command)
app.add_typer(collections_app, name="collections")
app.command("import")(import_command)
app.command("search")(search_command)
app.command("similarity")(similarity_command)
app.command("get")(get_command)
app.command("delete")(delete_command)
app.command("reconcile")(reconcile_command)
app.command("reembed")(reembed_command)
app.add_typer(snapshot_app, name="snapshot")
app.command("version")(version_command)


if __name__ == "__main__":
    app()
