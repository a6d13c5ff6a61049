"""Sends a source to a collection: a stream of images to the gateway, and a report of each image's outcome."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

import grpc

from cli.client import TIMEOUT_SECONDS, Client, Requests, word
from cli.sources import Item, SourceFailure
from cli.sources.source import MAX_UPLOAD_BYTES, too_large
from cli.terminal import plain
from protos import search_pb2 as pb
from protos import types_pb2
from services.common.limits import MAX_GATEWAY_REQUEST_BYTES

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
# More failures are only counted, and written to the report's file.
MAX_FAILURES_KEPT = 20
# Longer ids are shortened on the screen, and complete in the report's file.
MAX_ID_CHARS = 255


@dataclass(frozen=True)
class Sent:
    """Where an image that was sent came from, without its bytes, and how much of the source was read before it."""

    image_id: str
    file: str
    line: int
    share: float


@dataclass
class ImportReport:
    """How an import went so far: a count per word, and why failures failed. `file` takes each failure as JSON."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[SourceFailure] = field(default_factory=list)
    failure_count: int = 0
    # What the gateway had to say about images that it added.
    notes: set[pb.Note.ValueType] = field(default_factory=set)
    file: IO[str] | None = None
    started: float = field(default_factory=time.monotonic)
    # How much of the source is dealt with, 0 to 1: what was read and is still on its way does not count.
    share: float = 0.0

    def add(self, response: pb.AddImagesResponse, sent: Sent | None) -> None:
        """Takes an outcome; `sent` says where its image came from."""
        self.notes.update(response.notes)
        if response.status == pb.ADD_STATUS_FAILED:
            file, line = (sent.file, sent.line) if sent else ("", 0)
            self.fail(SourceFailure(response.image_id, response.error.message, file, line))
        else:
            self.counts[word(WORDS, response.status)] += 1

    def fail(self, failure: SourceFailure) -> None:
        if not failure.passed_over:
            self.counts["failed"] += 1
        self.failure_count += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(failure)
        self.write(failure)

    def write(self, failure: SourceFailure) -> None:
        """Write a failure to the report's file only."""
        if self.file is not None:
            entry = {
                "id": failure.image_id,
                "file": failure.file,
                "line": failure.line or None,
                "reason": failure.reason,
            }
            clean = {name: plain(value) if isinstance(value, str) else value for name, value in entry.items()}
            print(json.dumps(clean, ensure_ascii=False), file=self.file, flush=True)

    def images_per_second(self) -> float:
        return self.counts.total() / max(0.001, time.monotonic() - self.started)


def describe_failure(failure: SourceFailure) -> str:
    """One line: the id, where it stands, and the reason."""
    place = f"{failure.file}, line {failure.line}" if failure.line else ""
    image_id = failure.image_id
    if len(image_id) > MAX_ID_CHARS:
        image_id = f"{image_id[:MAX_ID_CHARS]}... ({len(image_id):,} characters)"
    head = ": ".join(filter(None, (image_id, place))) or failure.file
    return f"{head}: {failure.reason}"


def ensure_collection(client: Client, collection: str) -> None:
    """Create the collection if it does not exist."""
    try:
        client.collections.CreateCollection(pb.CreateCollectionRequest(collection=collection), timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def send(
    client: Client,
    items: Iterable[Item],
    fraction: Callable[[], float],
    collection: str,
    if_exists: types_pb2.IfExists.ValueType,
    report: ImportReport,
    show: Callable[[], None],
) -> None:
    """Streams the items to the gateway and puts the outcomes into `report` as they come, calling `show` after each.

    `fraction` says how much of the source was read so far.

    What stops the reading of `items` is raised after the outcomes of what was sent before have come.
    """
    sent: dict[int, Sent] = {}
    requests = Requests(_requests(items, fraction, collection, if_exists, report, sent))
    for response in client.images.AddImages(iter(requests)):
        report.add(response, sent.pop(response.index, None))
        # A copy, since gRPC's thread adds to it at the same time.
        waiting = list(sent.values())
        report.share = waiting[0].share if waiting else fraction()
        show()
    for lost in list(sent.values()):  # if the server ends early, some images have no outcome
        report.fail(SourceFailure(lost.image_id, "the gateway did not say what became of it", lost.file, lost.line))
    if requests.error is not None:
        raise requests.error


def _requests(
    items: Iterable[Item],
    fraction: Callable[[], float],
    collection: str,
    if_exists: types_pb2.IfExists.ValueType,
    report: ImportReport,
    sent: dict[int, Sent],
) -> Iterator[pb.AddImagesRequest]:
    yield pb.AddImagesRequest(options=pb.AddImagesOptions(collection=collection, if_exists=if_exists))
    index = 0
    share = 0.0
    for item in items:
        request = _request(item)
        if isinstance(request, SourceFailure):
            report.fail(request)
            continue
        sent[index] = Sent(request.image.image_id, item.file, item.line, share)
        share = fraction()
        index += 1
        yield request


def _request(item: Item) -> pb.AddImagesRequest | SourceFailure:
    """The request for an image, or why there is none."""
    if isinstance(item, SourceFailure):
        return item
    if len(item.data) > MAX_UPLOAD_BYTES:
        return SourceFailure(item.image_id, too_large(len(item.data)), item.file, item.line)
    try:
        upload = types_pb2.ImageUpload(image_id=item.image_id, data=item.data)
        upload.attributes.update(item.attributes)
    except (ValueError, TypeError) as error:  # a lone surrogate in a caption, a value that is no JSON
        return SourceFailure(item.image_id, f"its attributes cannot be sent: {error}", item.file, item.line)
    request = pb.AddImagesRequest(image=upload)
    if request.ByteSize() > MAX_GATEWAY_REQUEST_BYTES:
        return SourceFailure(item.image_id, too_large(len(item.data)), item.file, item.line)
    return request
