"""An import as the command line sends it: every image is in the report once, whatever becomes of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import progress, upload
from cli.sources import Item, SourceFailure, SourceImage
from cli.sources.source import SourceError
from cli.upload import MAX_FAILURES_KEPT, ImportReport, describe_failure, send
from protos import search_pb2 as pb
from protos import types_pb2


class FakeGateway:
    """Answers each image as `answer` says, until it has answered `ends_after`; the last come first."""

    def __init__(self, answer: Callable[[types_pb2.ImageUpload], int] = lambda _: pb.ADD_STATUS_ADDED) -> None:
        self.answer = answer
        self.ends_after = 10**9
        self.options: list[pb.AddImagesOptions] = []
        self.uploads: list[types_pb2.ImageUpload] = []
        self.images = SimpleNamespace(AddImages=self.add_images)

    def add_images(self, requests: Iterator[pb.AddImagesRequest]) -> Iterator[pb.AddImagesResponse]:
        self.options.append(next(requests).options)
        self.uploads.extend(request.image for request in requests)
        order = list(enumerate(self.uploads))[::-1]
        for index, image in order[: self.ends_after]:
            status: Any = self.answer(image)
            response = pb.AddImagesResponse(index=index, image_id=image.image_id, status=status)
            if status == pb.ADD_STATUS_FAILED:
                response.error.message = "no image"
            yield response


def sent(gateway: FakeGateway, items: Sequence[Item], report: ImportReport | None = None) -> ImportReport:
    report = report or ImportReport()
    client: Any = gateway
    send(client, items, lambda: 1.0, "c", types_pb2.IF_EXISTS_SKIP, report, lambda: None)
    return report


def image(image_id: str, **fields: Any) -> SourceImage:
    return SourceImage(image_id, fields.pop("data", b"x"), **fields)


items = st.lists(
    st.one_of(
        st.builds(image, st.text("abc", min_size=1, max_size=2), line=st.integers(0, 3)),
        st.builds(lambda: image("odd", attributes={"a": "\ud800"})),
        st.builds(lambda: image("object", attributes={"a": object()})),
        st.builds(SourceFailure, st.text("abc", max_size=2), st.just("damaged"), passed_over=st.booleans()),
    ),
    max_size=12,
)
statuses = st.sampled_from(
    [pb.ADD_STATUS_ADDED, pb.ADD_STATUS_REPLACED, pb.ADD_STATUS_SKIPPED, pb.ADD_STATUS_FAILED, 99]
)


@given(items, st.dictionaries(st.text("abc", min_size=1, max_size=2), statuses), st.integers(0, 12))
def test_every_item_is_counted_once(given_items: list[Item], answers: dict[str, int], ends_after: int) -> None:
    gateway = FakeGateway(lambda upload: answers.get(upload.image_id, pb.ADD_STATUS_ADDED))
    gateway.ends_after = ends_after
    report = sent(gateway, given_items, ImportReport(file=io.StringIO()))
    passed_over = sum(isinstance(each, SourceFailure) and each.passed_over for each in given_items)
    assert report.counts.total() == len(given_items) - passed_over
    assert isinstance(report.file, io.StringIO)
    lines = report.file.getvalue().splitlines()
    assert len(lines) == report.failure_count == report.counts["failed"] + passed_over
    good = [each for each in given_items if isinstance(each, SourceImage) and each.image_id not in ("odd", "object")]
    assert [each.image_id for each in gateway.uploads] == [each.image_id for each in good]
    lost = max(0, len(good) - ends_after)
    assert sum("did not say what became of it" in each.reason for each in report.failures) == lost


def test_an_outcome_is_told_with_the_place_that_its_image_came_from() -> None:
    gateway = FakeGateway(lambda upload: pb.ADD_STATUS_FAILED if upload.image_id == "b" else pb.ADD_STATUS_ADDED)
    report = sent(gateway, [SourceFailure("", "damaged", "f.tsv", 1), image("a"), image("b", file="f.tsv", line=7)])
    assert [describe_failure(each) for each in report.failures] == [
        "f.tsv, line 1: damaged",
        "b: f.tsv, line 7: no image",
    ]
    [options] = gateway.options
    assert (options.collection, options.if_exists) == ("c", types_pb2.IF_EXISTS_SKIP)


def test_what_stops_the_source_is_raised_after_the_outcomes_before_it() -> None:
    def breaking() -> Iterator[Item]:
        yield image("a")
        raise SourceError("the archive is cut off")

    report = ImportReport()
    gateway: Any = FakeGateway()
    with pytest.raises(SourceError, match="cut off"):
        send(gateway, breaking(), lambda: 1.0, "c", types_pb2.IF_EXISTS_SKIP, report, lambda: None)
    assert report.counts == {"added": 1}


def test_an_image_that_fits_into_no_message_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MAX_UPLOAD_BYTES", 100)
    monkeypatch.setattr(upload, "MAX_GATEWAY_REQUEST_BYTES", 150)
    gateway = FakeGateway()
    report = sent(
        gateway,
        [image("a", data=b"x" * 101), image("b", data=b"x" * 100, attributes={"a": "y" * 60}), image("c")],
    )
    assert [each.image_id for each in gateway.uploads] == ["c"]
    assert [(each.image_id, each.reason[:8]) for each in report.failures] == [("a", "has 101 "), ("b", "has 100 ")]


def test_a_report_keeps_some_failures_and_writes_all_of_them_as_one_line_each() -> None:
    report = ImportReport(file=io.StringIO())
    for number in range(MAX_FAILURES_KEPT + 5):
        report.fail(SourceFailure(f"图{number}\n\x1b[31m", "why\udcff", "f", number))
    assert len(report.failures) == MAX_FAILURES_KEPT
    assert isinstance(report.file, io.StringIO)
    lines = [json.loads(line) for line in report.file.getvalue().splitlines()]
    assert len(lines) == report.failure_count == MAX_FAILURES_KEPT + 5
    assert (lines[0]["line"], lines[1]["line"]) == (None, 1)
    assert "\x1b" not in lines[0]["id"]
    assert lines[0]["id"].startswith("图0")


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([(0.5, 0.05), (0.9, 0.9)], []),  # (seconds, share): a small import needs no lines
        ([(1, 0.05), (5, 0.09), (9, 0.099)], []),
        ([(2, 0.1)], [0.1]),
        ([(2, 0.1), (2.5, 0.3), (3, 0.35)], [0.1, 0.35]),
        ([(10, 0.001), (15, 0.002), (20, 0.003)], [0.001, 0.003]),
    ],
)
def test_lines_come_now_and_then(
    looks: list[tuple[float, float]], told: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    lines: list[str] = []
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(progress, "warn", lines.append)
    report = ImportReport(started=0.0)
    report.counts["added"] = 1234
    report.fail(SourceFailure("x", "y"))
    show = progress._lines(report)
    for seconds, share in looks:
        clock.now, report.share = 100 + seconds, share
        show()
    assert [line.partition("%")[0] for line in lines] == [f"importing: {share:.0%}"[:-1] for share in told]
    assert all(line.endswith(", 1 failed") and "1,235 images" in line for line in lines)
