"""The progress of an import: a bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli.terminal import console, warn
from cli.upload import ImportReport

LINE_SECONDS = 10.0
LINE_SHARE = 0.1


@contextmanager
def shown(report: ImportReport) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each outcome."""
    if console.is_terminal:
        yield from _bar(report)
    else:
        yield _lines(report)


def _bar(report: ImportReport) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(markup=False))
    with Progress(
        *columns, TextColumn("{task.fields[counts]}", markup=False), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("importing", total=1.0, counts="")

        def show() -> None:
            bar.update(task, completed=report.share, counts=_counts(report))

        yield show
        show()


def _lines(report: ImportReport) -> Callable[[], None]:
    last_time, last_share = time.monotonic(), 0.0

    def show() -> None:
        nonlocal last_time, last_share
        share, now = report.share, time.monotonic()
        # Both limits hold: a short import prints no lines, and a long one only a few.
        if now - last_time >= LINE_SECONDS or (share - last_share >= LINE_SHARE and now - last_time >= 1):
            last_time, last_share = now, share
            warn(f"importing: {share:.0%}, {_counts(report)}")

    return show


def _counts(report: ImportReport) -> str:
    failed = f", {report.failure_count:,} failed" if report.failure_count else ""
    return f"{report.counts.total():,} images, {report.images_per_second():,.0f} images/s{failed}"
