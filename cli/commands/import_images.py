"""`wentu import`: a source into a collection."""

from __future__ import annotations

import codecs
from collections import Counter
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.client import connected
from cli.edge import INTERRUPTED
from cli.errors import CommandError
from cli.options import COLLECTION, GATEWAY, PRECISION_NOTE, Collection, Gateway
from cli.progress import shown
from cli.sources import SourceFailure, open_source
from cli.sources.ids import IdRule, Misreadings, identified
from cli.terminal import say, warn
from cli.upload import CHOICES, ImportReport, describe_failure, ensure_collection, send
from protos import search_pb2 as pb


class IfExists(StrEnum):
    """The choices for an id that exists already."""

    SKIP = "skip"
    REPLACE = "replace"
    FAIL = "fail"


def import_command(
    source: Annotated[
        Path, typer.Argument(help="A folder, an image, an archive (tar, zip), or Chinese-CLIP's SPLIT_imgs.tsv.")
    ],
    collection: Collection = COLLECTION,
    if_exists: Annotated[IfExists, typer.Option(help="For an id that is there.")] = IfExists.SKIP,
    id_rule: Annotated[
        IdRule,
        typer.Option(
            "--id",
            help="What becomes an image's id: its path in the source (or its id in a dataset), its name without "
            "folders and ending, or the SHA-256 of its bytes.",
        ),
    ] = IdRule.PATH,
    encoding: Annotated[
        str, typer.Option(help="Encoding of names, ids and captions that are not UTF-8: gbk, big5, latin-1.")
    ] = "",
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write each failure to this file: JSON, one per line.")
    ] = None,
    gateway: Gateway = GATEWAY,
) -> None:
    """Import images; the collection is created if it does not exist. Repeating an import is safe.

    Code 1 if an image failed or a part of the source could not be read, 130 after Ctrl-C.
    """
    check_encoding(encoding)
    opened = open_source(source, encoding)
    report, misreadings = ImportReport(), Misreadings()
    trouble = ""
    with ExitStack() as stack:
        if report_file is not None:
            report.file = stack.enter_context(report_file.open("w", encoding="utf-8"))
        client = stack.enter_context(connected(gateway))
        ensure_collection(client, collection)
        try:
            with shown(report) as show:
                items = identified(opened, id_rule, encoding, misreadings)
                send(client, items, opened.fraction, collection, CHOICES[if_exists], report, show)
        except KeyboardInterrupt as error:
            say_summary(report, opened.passed_over)
            warn("wentu: interrupted; the same command goes on where this one stopped")
            raise typer.Exit(INTERRUPTED) from error
        except CommandError as error:
            trouble = str(error)
            report.write(SourceFailure("", trouble, str(source)))
        except Exception:
            say_summary(report, opened.passed_over)
            raise
    say_summary(report, opened.passed_over)
    if note := misreadings.note():
        say(note)
    if pb.NOTE_PRECISION_MISMATCH in report.notes:
        say(PRECISION_NOTE)
    if trouble:
        raise CommandError(trouble)
    if report.failure_count:
        raise typer.Exit(1)


def say_summary(report: ImportReport, passed_over: Counter[str]) -> None:
    """Print the failures that were kept, and the counts."""
    for failure in report.failures:
        say(f"  {describe_failure(failure)}")
    if report.failure_count > len(report.failures):
        say(f"  and {report.failure_count - len(report.failures):,} more; --report FILE keeps all of them")
    if described := describe_passed_over(passed_over):
        say(described)
    say(", ".join(f"{count:,} {word}" for word, count in sorted(report.counts.items())) or "nothing to import")


def describe_passed_over(passed_over: Counter[str]) -> str:
    """One line, the most frequent reason first; empty if nothing was passed over."""
    reasons = [f"{count:,} {reason}" for reason, count in passed_over.most_common() if count]
    return f"{passed_over.total():,} passed over: {', '.join(reasons)}" if reasons else ""


def check_encoding(encoding: str) -> None:
    """Raises CommandError for an encoding that Python does not know."""
    try:
        if encoding:
            codecs.lookup(encoding)
    except LookupError as error:
        raise CommandError(f"--encoding: there is no encoding {encoding}") from error
