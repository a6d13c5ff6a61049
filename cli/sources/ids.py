"""The id of each image. An id that no store accepts fails here, before the image is sent."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import PurePosixPath

from cli.sources.source import Item, SourceFailure, SourceImage
from cli.sources.text_encoding import decode, gbk_by_chance
from services.common.errors import InvalidField
from services.common.ids import check_image_id

_LAST_LATIN = "\u017f"


class IdRule(StrEnum):
    """The part of an image that becomes its id."""

    PATH = "path"
    STEM = "stem"
    SHA256 = "sha256"


@dataclasses.dataclass
class Misreadings:
    """How many ids have more than Latin letters, and how many of these may be GBK that reads as UTF-8 by chance."""

    not_latin: int = 0
    by_chance: int = 0
    example: str = ""

    def add(self, image_id: str) -> None:
        if max(image_id) <= _LAST_LATIN:
            return
        self.not_latin += 1
        if gbk := gbk_by_chance(image_id):
            self.by_chance += 1
            self.example = self.example or f"{image_id}, which would be {gbk}"

    def note(self) -> str:
        """One line if all of them may be GBK: ids that are UTF-8 by intent are not all so. Empty otherwise."""
        if not self.by_chance or self.by_chance < self.not_latin:
            return ""
        return f"{self.by_chance:,} ids read as UTF-8 may be GBK ({self.example}): --encoding gbk reads them so"


def identified(
    items: Iterable[Item], rule: IdRule, encoding: str = "", misreadings: Misreadings | None = None
) -> Iterator[Item]:
    """The items with their final ids. An id that cannot be used, or comes again, becomes a failure.

    `encoding` is that of names which are not UTF-8. `misreadings` counts the ids that are used.
    """
    seen: set[int] = set()  # hashes, since the ids of millions of images would need many times the memory
    for item in items:
        if isinstance(item, SourceFailure):
            yield item
            continue
        try:
            image_id = _id(item, rule, encoding)
        except ValueError as error:
            yield SourceFailure(item.image_id, str(error), item.file, item.line)
            continue
        key = hash(image_id)
        if key in seen:
            others = "" if rule is IdRule.SHA256 else "; --id sha256 tells images with one name apart"
            reason = f"its id came before in this import; nothing of this one was imported{others}"
            yield SourceFailure(image_id, reason, item.file, item.line)
            continue
        seen.add(key)
        if misreadings is not None and not encoding:
            misreadings.add(image_id)
        yield item if image_id == item.image_id else dataclasses.replace(item, image_id=image_id)


def _id(item: SourceImage, rule: IdRule, encoding: str) -> str:
    """Raises ValueError with the reason."""
    if rule is IdRule.SHA256:
        return hashlib.sha256(item.data).hexdigest()
    name = readable(item.image_id, encoding)
    if name is None:
        tried = f"neither UTF-8 nor {encoding}" if encoding else "not UTF-8"
        raise ValueError(f"its id is {tried}; if it is GBK, --encoding gbk reads it, and --id sha256 does without it")
    if rule is IdRule.STEM:
        name = PurePosixPath(name).stem
    try:
        return check_image_id(name)
    except InvalidField as error:
        raise ValueError(f"{error.message}; --id stem or --id sha256 gives others") from error


def readable(name: str, encoding: str = "") -> str | None:
    """A name that may hold bytes which are not UTF-8, as text; None if it is in neither encoding."""
    return decode(name.encode("utf-8", "surrogateescape"), encoding)
