"""The commands that look after collections."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli.client import connected
from cli.options import GATEWAY, Gateway
from protos import admin_pb2 as pb

WHAT = {
    pb.FINDING_KIND_ORPHANED_BYTES: "bytes without a vector",
    pb.FINDING_KIND_MISSING_BYTES: "a vector without bytes",
    pb.FINDING_KIND_STALE_VECTOR: "a vector of other bytes",
    pb.FINDING_KIND_WRONG_MODEL: "a vector of another model",
}
console = Console()


def reconcile_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report only.")] = False,
    remove_orphans: Annotated[
        bool, typer.Option("--remove-orphans", help="Remove bytes that have no vector, instead of encoding them.")
    ] = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Compare both stores and repair what an interruption left. Code 1 where something is left to repair."""
    found: Counter[str] = Counter()
    checked = 0
    request = pb.ReconcileRequest(collection=collection, dry_run=dry_run, remove_orphans=remove_orphans)
    with connected(gateway) as client:
        for answer in client.admin.Reconcile(request):
            checked = max(checked, answer.checked_count)
            if not answer.image_id:
                continue
            ending = "repaired" if answer.repaired else answer.error.message or "not repaired"
            found["repaired" if answer.repaired else "left"] += 1
            console.print(f"{answer.image_id}: {WHAT[answer.kind]}: {ending}", markup=False, soft_wrap=True)
    console.print(f"{checked:,} compared, {found['repaired']:,} repaired, {found['left']:,} left")
    if found["left"]:
        sys.exit(1)


def reembed_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")], gateway: Gateway = GATEWAY
) -> None:
    """Encode a collection again under the encoder's model while it stays searchable. Resumes where it stopped."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with connected(gateway) as client, Progress(*columns, console=console) as progress:
        task = progress.add_task(collection, total=None)
        for answer in client.admin.Reembed(pb.ReembedRequest(collection=collection)):
            # Writes that came meanwhile count too.
            progress.update(task, completed=answer.done_count, total=max(answer.done_count, answer.total_count))
    console.print(f"{collection} is searched by its new vectors now")
