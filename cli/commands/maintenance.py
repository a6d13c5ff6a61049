"""The commands that look after collections: `wentu reconcile` and `wentu reembed`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli.client import connected, word
from cli.options import GATEWAY, Gateway
from cli.terminal import console, say
from protos import admin_pb2 as pb

FINDINGS = {
    pb.FINDING_KIND_ORPHANED_BYTES: "bytes without a vector",
    pb.FINDING_KIND_MISSING_BYTES: "a vector without bytes",
    pb.FINDING_KIND_STALE_VECTOR: "a vector of other bytes",
    pb.FINDING_KIND_WRONG_MODEL: "a vector of another model",
}


def reconcile_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report only.")] = False,
    remove_orphans: Annotated[
        bool, typer.Option("--remove-orphans", help="Remove bytes that have no vector, instead of encoding them.")
    ] = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Compare both stores and repair what an interruption left. Code 1 if something is left to repair."""
    counts: Counter[str] = Counter()
    checked = 0
    request = pb.ReconcileRequest(collection=collection, dry_run=dry_run, remove_orphans=remove_orphans)
    with connected(gateway) as client:
        for response in client.admin.Reconcile(request):
            checked = max(checked, response.checked_count)
            if response.leftover_count:
                ending = "not removed" if dry_run else "removed"
                counts["left"] += dry_run
                say(f"{response.leftover_count:,} images of a deleted collection of this id: {ending}")
            if not response.image_id:
                continue
            ending = "repaired" if response.repaired else response.error.message or "not repaired"
            counts["repaired" if response.repaired else "left"] += 1
            say(f"{response.image_id}: {word(FINDINGS, response.kind)}: {ending}")
    say(f"{checked:,} compared, {counts['repaired']:,} repaired, {counts['left']:,} left")
    if counts["left"]:
        raise typer.Exit(1)


def reembed_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")], gateway: Gateway = GATEWAY
) -> None:
    """Encode a collection again under the encoder's model while it stays searchable. Resumes where it stopped."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with connected(gateway) as client, Progress(*columns, console=console) as progress:
        task = progress.add_task(collection, total=None)
        for response in client.admin.Reembed(pb.ReembedRequest(collection=collection)):
            # Concurrent writes count too.
            total = max(response.done_count, response.total_count)
            progress.update(task, completed=response.done_count, total=total)
    say(f"{collection} is searched by its new vectors now")
