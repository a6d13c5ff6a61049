"""Vectors whose writer stopped too early are looked after by somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

# Looks after the vectors of a collection's images that may not agree with the image store.
LookAfter = Callable[[str, Sequence[str]], None]


@contextmanager
def finished_or(look_after: LookAfter, collection: str, image_ids: Sequence[str]) -> Iterator[None]:
    """For work on vectors after which the image store is looked at.

    If it ends before that, because the caller left or a store failed, these vectors may not agree with the image
    store: `look_after` is called with them.
    """
    try:
        yield
    except BaseException:
        look_after(collection, image_ids)
        raise
