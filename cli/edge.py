"""The edge of the program: an error in a command becomes one line and an exit code. `--debug` shows the traceback."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import grpc
import typer
from typer.core import TyperGroup

from cli.client import explain
from cli.errors import CommandError
from cli.terminal import prepare_streams, warn

FAILED, INTERRUPTED = 1, 130
DEBUG = "--debug"


class Edge(TyperGroup):
    """The root of the commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept --debug anywhere, since people add it to the end of a command that failed."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[DEBUG] = DEBUG in args[:end] or bool(os.environ.get("WENTU_DEBUG"))
        return super().parse_args(ctx, [word for place, word in enumerate(args) if place >= end or word != DEBUG])

    def invoke(self, ctx: Any) -> Any:
        prepare_streams()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError:
            raise  # the reader of the pipe is gone, so nobody can read a message
        except Exception as error:
            if type(error).__module__.startswith("typer."):
                raise  # usage and exit codes
            if ctx.meta[DEBUG]:
                traceback.print_exc()
            warn(f"wentu: {describe(error)}")
            raise typer.Exit(FAILED) from error


def describe(error: Exception) -> str:
    """One line for a person."""
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, grpc.RpcError):
        return explain(error)
    if isinstance(error, UnicodeEncodeError):
        encoding = sys.getfilesystemencoding()
        return (
            f"{error.object!r} cannot be sent: it is not {encoding}. Is the terminal set to another encoding, as GBK?"
        )
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return f"{type(error).__name__}: {error} (this is a fault of wentu; {DEBUG} shows where)".replace("\n", " ")
