"""Chinese-CLIP's dataset files."""

from __future__ import annotations

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from cli.sources.source import SourceImage

TSV_ENDING = "_imgs.tsv"
TEXTS_ENDING = "_texts.jsonl"


class ChineseClipDataset:
    """One split of Chinese-CLIP's dataset files: SPLIT_imgs.tsv of id and base64, and SPLIT_texts.jsonl of captions.

    The captions of a picture become its attribute `captions`. The format is that of Chinese-CLIP's README and of
    cn_clip/preprocess/build_lmdb_dataset.py.
    """

    def __init__(self, tsv: Path) -> None:
        self._tsv = tsv
        with tsv.open("rb") as file:
            self._count = sum(1 for line in file if line.strip())
        self._captions: dict[str, list[str]] = defaultdict(list)
        texts = tsv.with_name(tsv.name.removesuffix(TSV_ENDING) + TEXTS_ENDING)
        if texts.exists():
            for line in texts.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                for image_id in entry.get("image_ids", ()):
                    self._captions[str(image_id)].append(entry["text"])

    def count(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[SourceImage]:
        with self._tsv.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                image_id, _, encoded = line.rstrip("\n").partition("\t")
                captions = self._captions.get(image_id)
                attributes = {"captions": captions} if captions else {}
                try:
                    # Chinese-CLIP itself writes the URL-safe alphabet here and the plain one there.
                    data = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
                except binascii.Error as error:
                    yield SourceImage(image_id or f"line {number}", b"", error=f"line {number}: {error}")
                else:
                    yield SourceImage(image_id, data, attributes)
