"""`wentu import`: a source into a collection, with progress and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.client import TIMEOUT_SECONDS, Client
from cli.sources import Source, SourceImage
from protos import search_pb2 as pb
from protos import types_pb2

CHOICES = {
    "replace": types_pb2.IF_EXISTS_REPLACE,
    "skip": types_pb2.IF_EXISTS_SKIP,
    "fail": types_pb2.IF_EXISTS_FAIL,
}
WORDS = {
    pb.ADD_STATUS_ADDED: "added",
    pb.ADD_STATUS_REPLACED: "replaced",
    pb.ADD_STATUS_SKIPPED: "skipped",
    pb.ADD_STATUS_FAILED: "failed",
}


@dataclass
class Report:
    """How an import ended: a count a word, and why each failure failed."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, response: pb.AddImagesResponse) -> None:
        self.counts[WORDS[response.status]] += 1
        if response.status == pb.ADD_STATUS_FAILED:
            self.failures.append((response.image_id, response.error.message))

    def add_unreadable(self, image: SourceImage) -> None:
        self.counts["failed"] += 1
        self.failures.append((image.image_id, image.error))


def ensure_collection(client: Client, collection: str) -> None:
    """Creates the collection where there is none."""
    try:
        client.collections.CreateCollection(pb.CreateCollectionRequest(collection=collection), timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def run_import(client: Client, source: Source, collection: str, if_exists: str, console: Console) -> Report:
    """Streams the source to the gateway and takes the outcomes as they come."""
    report = Report()
    with Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
        console=console,
    ) as progress:
        task = progress.add_task("importing", total=source.count(), rate="", failed="")
        requests = _requests(source, collection, if_exists, report)
        for response in client.images.AddImages(requests):
            report.add(response)
            _show(progress, task, report)
        _show(progress, task, report)
    return report


def _show(progress: Progress, task: TaskID, report: Report) -> None:
    speed = progress.tasks[0].speed
    progress.update(
        task,
        completed=report.counts.total(),
        rate=f"{speed:,.0f} pictures/s" if speed else "",
        failed=f"{len(report.failures)} failed" if report.failures else "",
    )


def _requests(source: Source, collection: str, if_exists: str, report: Report) -> Iterator[pb.AddImagesRequest]:
    yield pb.AddImagesRequest(options=pb.AddImagesOptions(collection=collection, if_exists=CHOICES[if_exists]))
    for image in source:
        if image.error:
            report.add_unreadable(image)
            continue
        upload = types_pb2.ImageUpload(image_id=image.image_id, data=image.data)
        upload.attributes.update(image.attributes)
        yield pb.AddImagesRequest(image=upload)
