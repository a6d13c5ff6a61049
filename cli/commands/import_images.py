"""`wentu import`: a source into a collection."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.client import connected
from cli.options import COLLECTION, GATEWAY, Collection, Gateway
from cli.sources import SourceError, open_source
from cli.upload import CHOICES, ensure_collection, run_import

MAX_FAILURES_SHOWN = 20
console = Console()


def import_command(
    source: Annotated[Path, typer.Argument(help="A folder, a tar, or Chinese-CLIP's SPLIT_imgs.tsv.")],
    collection: Collection = COLLECTION,
    if_exists: Annotated[str, typer.Option(help="For an id that is there: skip, replace or fail.")] = "skip",
    gateway: Gateway = GATEWAY,
) -> None:
    """Import pictures; the collection is created where there is none. Repeating an import is safe."""
    if if_exists not in CHOICES:
        sys.exit(f"wentu: --if-exists must be one of {', '.join(CHOICES)}")
    try:
        opened = open_source(source)
    except SourceError as error:
        sys.exit(f"wentu: {error}")
    with connected(gateway) as client:
        ensure_collection(client, collection)
        report = run_import(client, opened, collection, if_exists, console)
    for image_id, problem in report.failures[:MAX_FAILURES_SHOWN]:
        console.print(f"  {image_id}: {problem}", markup=False, soft_wrap=True)
    if len(report.failures) > MAX_FAILURES_SHOWN:
        console.print(f"  and {len(report.failures) - MAX_FAILURES_SHOWN} more")
    console.print(
        ", ".join(f"{count:,} {word}" for word, count in sorted(report.counts.items())) or "nothing to import"
    )
    if report.failures:
        sys.exit(1)
