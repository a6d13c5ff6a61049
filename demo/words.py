"""The words that each concept is known by: what the teacher compares a phrase with.

Chinese words are in simplified characters. They come from emojibase's `zh` and `zh-hant` (MIT), CLDR's annotations for
Hong Kong and for Cantonese (Unicode-3.0), and `extra_tags.tsv`; English words from emojibase and emojilib (both MIT).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.concepts import VARIATION_SELECTOR, Concept
from demo.traditional import simplified

EXTRA_TAGS = Path(__file__).parent / "extra_tags.tsv"
CHINESE = re.compile(r"[\u4e00-\u9fff]+")


@dataclass(frozen=True)
class ConceptWords:
    """One concept's words, without repetition, in a fixed order."""

    chinese: tuple[str, ...]
    english: tuple[str, ...]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _emojibase(node_modules: Path, locale: str) -> Iterator[tuple[str, str]]:
    for entry in _read(node_modules / f"emojibase-data/{locale}/data.json"):
        for word in (entry["label"], *entry.get("tags", ())):
            yield entry["emoji"], word


def _cldr(node_modules: Path, locale: str) -> Iterator[tuple[str, str]]:
    path = node_modules / f"cldr-annotations-full/annotations/{locale}/annotations.json"
    for emoji, kinds in _read(path)["annotations"]["annotations"].items():
        for word in (*kinds.get("tts", ()), *kinds.get("default", ())):
            yield emoji, word


def _emojilib(node_modules: Path) -> Iterator[tuple[str, str]]:
    for emoji, words in _read(node_modules / "emojilib/dist/emoji-en-US.json").items():
        for word in words:
            yield emoji, word.replace("_", " ")


def extra_tags() -> Iterator[tuple[str, str]]:
    """Extra tags, for words whose characters do not tell their meaning, such as 春节 and 可乐."""
    for line in EXTRA_TAGS.read_text(encoding="utf-8").splitlines():
        emoji, words = line.split("\t")
        for word in words.split():
            yield emoji, word


def load_words(node_modules: Path, concepts: list[Concept]) -> list[ConceptWords]:
    """The words of each concept, in the order of `concepts`."""
    chinese: dict[str, dict[str, None]] = defaultdict(dict)
    english: dict[str, dict[str, None]] = defaultdict(dict)
    sources = (
        _emojibase(node_modules, "zh"),
        _emojibase(node_modules, "zh-hant"),
        _cldr(node_modules, "zh-Hant-HK"),
        _cldr(node_modules, "yue-Hans"),
        extra_tags(),
    )
    selector = chr(int(VARIATION_SELECTOR.strip("-"), 16))
    for source in sources:
        for emoji, text in source:
            for word in CHINESE.findall(simplified(text)):  # some tags hold a list
                chinese[emoji.replace(selector, "")][word] = None
    for source in (_emojibase(node_modules, "en"), _emojilib(node_modules)):
        for emoji, word in source:
            if len(word) > 1 and word.isascii() and word[0].isalpha():  # no emoticons
                english[emoji.replace(selector, "")][word.lower()] = None
    emoji_of = [chr(concept.image_id) for concept in concepts]
    return [ConceptWords(tuple(chinese[emoji]), tuple(english[emoji])) for emoji in emoji_of]
