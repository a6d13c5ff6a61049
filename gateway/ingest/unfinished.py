"""Reports vectors whose writer stopped too early, so that they are repaired in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

# Repairs vectors of a collection's images that may not agree with the image store.
LookAfter = Callable[[str, Sequence[str]], None]


@contextmanager
def finished_or(look_after: LookAfter, collection: str, image_ids: Sequence[str]) -> Iterator[None]:
    """A context for work on vectors that ends with a check against the image store.

    If the work ends before that check, because the caller cancelled or a store failed, these vectors may not agree
    with the image store. Then `look_after` is called with them.
    """
    try:
        yield
    except BaseException:
        look_after(collection, image_ids)
        raise
