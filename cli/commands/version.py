"""`wentu version` and `wentu --version`."""

from __future__ import annotations

import typer

from services.common import __version__


def version_command() -> None:
    """Show the version."""
    print(__version__)


def version_option(wanted: bool) -> None:
    """Shows the version and ends."""
    if wanted:
        print(__version__)
        raise typer.Exit
