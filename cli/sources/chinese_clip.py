"""Chinese-CLIP's dataset files."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from cli.sources.ids import readable
from cli.sources.lines import MAX_LINE_BYTES, lines
from cli.sources.source import Item, SourceFailure, SourceImage
from cli.sources.text_encoding import decode, may_be_misread

TSV_ENDING = "_imgs.tsv"
TEXTS_ENDING = "_texts.jsonl"
# What people's programs put around the base64: a data URI, quotes, Python's notation of bytes.
_WRAPPED = re.compile(rb"""(?:data:[^,]*,|b?['"])?([^'"]*)['"]?""")
_REMEDY = "if it is GBK, --encoding gbk reads it"
_NOT_UTF8 = f"is not UTF-8; {_REMEDY}"


class UnusableLineError(Exception):
    """A line of captions cannot be used. The message says why."""


class NotUtf8Error(UnusableLineError):
    """The line is neither UTF-8 nor in the named encoding."""


class ChineseClipDataset:
    """One split of Chinese-CLIP's dataset files: SPLIT_imgs.tsv of id and base64, and SPLIT_texts.jsonl of captions.

    The captions of an image become its attribute `captions`. The format is that of Chinese-CLIP's README and of
    cn_clip/preprocess/build_lmdb_dataset.py, and what that reads is read. `encoding` is that of texts which are not
    UTF-8.
    """

    def __init__(self, tsv: Path, encoding: str = "") -> None:
        self._tsv = tsv
        self._encoding = encoding
        self._texts = tsv.with_name(tsv.name.removesuffix(TSV_ENDING) + TEXTS_ENDING)
        self._size = tsv.stat().st_size
        self._position = 0
        self._captions: dict[str, list[str]] = defaultdict(list)
        self.passed_over: Counter[str] = Counter()

    def fraction(self) -> float:
        return self._position / max(1, self._size)

    def __iter__(self) -> Iterator[Item]:
        yield from self._read_captions()
        with self._tsv.open("rb") as file:
            for number, line in lines(file):
                self._position = file.tell()
                yield self._image(number, line)
        if self._captions:
            self.passed_over[f"captions in {self._texts.name} of an image that is not in {self._tsv.name}"] += len(
                self._captions
            )

    def _image(self, number: int, line: bytes | None) -> Item:
        if line is None:
            return SourceFailure("", f"the line is longer than {MAX_LINE_BYTES:,} bytes", str(self._tsv), number)
        first, *others = line.split(b"\t")
        name = first.strip().decode("utf-8", "surrogateescape")
        image_id = readable(name, self._encoding) or name
        if len(others) != 1:
            columns = f"has {len(others) + 1} columns" if others else "has no tab between two columns"
            reason = f"the line {columns}; it must be an id, a tab and base64"
            return SourceFailure(image_id[:80] if others else "", reason, str(self._tsv), number)
        try:
            data = decoded(others[0])
        except binascii.Error as error:
            return SourceFailure(image_id, f"the second column is not base64: {error}", str(self._tsv), number)
        captions = self._captions.pop(image_id, None)
        attributes = {"captions": captions} if captions else {}
        return SourceImage(image_id, data, attributes, str(self._tsv), number)

    def _read_captions(self) -> Iterator[SourceFailure]:
        """Fills the captions. Yields each line that has none that can be used.

        If a line is not UTF-8, others that are UTF-8 only by chance are not believed either.
        """
        if not self._texts.exists():
            return
        doubtful: list[tuple[int, str, list[str]]] = []
        failed = False
        with self._texts.open("rb") as file:
            for number, line in lines(file):
                try:
                    text, image_ids = self._caption(line)
                except NotUtf8Error:
                    failed = True
                    yield SourceFailure("", _NOT_UTF8, str(self._texts), number)
                except (UnusableLineError, ValueError) as error:
                    yield SourceFailure("", str(error), str(self._texts), number)
                else:
                    if may_be_misread(text) and not self._encoding:
                        doubtful.append((number, text, image_ids))
                    else:
                        self._add(text, image_ids)
        for number, text, image_ids in doubtful:
            if failed:
                reason = f"may not be UTF-8, as other lines are not; {_REMEDY}"
                yield SourceFailure("", reason, str(self._texts), number)
            else:
                self._add(text, image_ids)

    def _add(self, text: str, image_ids: list[str]) -> None:
        for image_id in image_ids:
            self._captions[image_id].append(text)

    def _caption(self, line: bytes | None) -> tuple[str, list[str]]:
        """A text and the ids of its images. Raises UnusableLineError with the reason; json raises ValueError."""
        if line is None:
            raise UnusableLineError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
        document = decode(line, self._encoding)
        if document is None:
            raise NotUtf8Error
        try:
            entry = json.loads(document)
        except RecursionError as error:
            raise UnusableLineError("is not JSON that can be read: it is nested too deep") from error
        except json.JSONDecodeError as error:
            hint = "; keys and texts stand in double quotes" if line.startswith(b"{'") else ""
            raise UnusableLineError(f"is not JSON: {error.msg} at column {error.colno}{hint}") from error
        if not isinstance(entry, dict):
            raise UnusableLineError('is not an object as {"text_id": 1, "text": "...", "image_ids": [1]}')
        missing = [name for name in ("text", "image_ids") if name not in entry]
        if missing:
            raise UnusableLineError(f"has no {' and no '.join(missing)}")
        text, image_ids = entry["text"], entry["image_ids"]
        if not isinstance(text, str | int | float):
            raise UnusableLineError("text is not a text")
        if not isinstance(image_ids, list) or not all(isinstance(each, str | int) for each in image_ids):
            raise UnusableLineError("image_ids is not a list of ids")
        return str(text), [str(each).strip() for each in image_ids]


def decoded(column: bytes) -> bytes:
    """The bytes behind base64 of either alphabet, with or without its padding. Raises binascii.Error."""
    inner = _WRAPPED.fullmatch(b"".join(column.split()))
    if inner is None:
        raise binascii.Error("it has quotes inside")
    # Chinese-CLIP itself writes the URL-safe alphabet here and the plain one there.
    encoded = inner[1].rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
