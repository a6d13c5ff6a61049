"""The id of each image: what no store can take as one fails here, before it is sent."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import PurePosixPath

from cli.sources.source import Item, SourceFailure, SourceImage
from cli.sources.text_encoding import decode
from services.common.errors import InvalidField
from services.common.ids import check_image_id


class IdRule(StrEnum):
    """What of an image becomes its id."""

    PATH = "path"
    STEM = "stem"
    SHA256 = "sha256"


def identified(items: Iterable[Item], rule: IdRule, encoding: str = "") -> Iterator[Item]:
    """The items with their final ids. An id that cannot be used, or comes again, becomes a failure.

    `encoding` is that of names which are not UTF-8.
    """
    seen: set[int] = set()  # hashes: ids of millions of images would be many times as large
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
            reason = "its id came before in this import; nothing of this one was imported"
            yield SourceFailure(image_id, reason, item.file, item.line)
            continue
        seen.add(key)
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
