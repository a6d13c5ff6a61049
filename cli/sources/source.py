"""What a source of images is: a stream of items, some of which cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from cli.errors import CommandError
from services.common.limits import MAX_GATEWAY_REQUEST_BYTES, MESSAGE_MARGIN_BYTES

# A larger image does not fit into a message, so it is not read. The gateway's own limit is lower, and it reports it.
MAX_UPLOAD_BYTES = MAX_GATEWAY_REQUEST_BYTES - MESSAGE_MARGIN_BYTES
LEFTOVER = "leftovers of a NAS or a desktop"
# Folders and files, in lower case, that systems put beside images: thumbnails, bins, snapshots, notes of viewers.
_LEFTOVERS = frozenset(
    {
        *("@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", ".@__thumb", ".thumbnails", ".dtrash"),
        *("$recycle.bin", "system volume information", "lost+found", "__macosx", ".appledouble", ".trash", ".trashes"),
        *(".spotlight-v100", ".fseventsd", ".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".picasa.ini"),
    }
)


class SourceError(CommandError):
    """A source cannot be read, or cannot be read further. The message says why."""


@dataclass(frozen=True)
class SourceImage:
    """An image to import. `image_id` may hold bytes that are not UTF-8, as surrogates: ids.py settles that.

    `file` and `line` (from 1; 0 for none) say where it stands.
    """

    image_id: str
    data: bytes
    attributes: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class SourceFailure:
    """An item that cannot be read, and why. `image_id` is empty if it is not known.

    `passed_over`: the source counted it among what it passed over, so it does not count as a failed image too.
    """

    image_id: str
    reason: str
    file: str = ""
    line: int = 0
    passed_over: bool = False


Item = SourceImage | SourceFailure


class Source(Protocol):
    """Images with ids, in a fixed order. Iterating reads one item at a time. Raises SourceError if it must stop."""

    @property
    def passed_over(self) -> Counter[str]:
        """How many entries of the source were passed over so far, by reason."""

    def fraction(self) -> float:
        """How much of the source was read so far, 0 to 1."""

    def __iter__(self) -> Iterator[Item]: ...


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name was left by a NAS or a desktop, and is no image of the user's."""
    return name.lower() in _LEFTOVERS or name.startswith(("._", ".Trash-"))


def too_large(size_bytes: int) -> str:
    """The reason for an image that fits into no message."""
    return f"has {size_bytes:,} bytes; a message takes at most {MAX_UPLOAD_BYTES:,}"
