"""`wentu version`."""

from __future__ import annotations

from services.common import __version__


def version_command() -> None:
    """Show the version."""
    print(__version__)
