"""What the demo knows: one concept per emoji, with its Chinese name and tags.

Names and tags are emojibase's `zh` data (MIT), which is Unicode CLDR's. Flags, skin tones and joined sequences
are left out, so that each concept is one code point: its decimal value is the concept's image id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FLAGS_GROUP = 9
COMPONENTS_GROUP = 2
VARIATION_SELECTOR = "-FE0F"


@dataclass(frozen=True)
class Concept:
    """One emoji: `image_id` (its code point), its Chinese `name` and `tags`, and its `group` (faces, food ...)."""

    image_id: int
    name: str
    tags: tuple[str, ...]
    group: int

    @property
    def words(self) -> frozenset[str]:
        return frozenset((self.name, *self.tags))


def load_concepts(node_modules: Path) -> list[Concept]:
    """Read the concepts from an installed emojibase-data, in the order of their code points."""
    entries = json.loads((node_modules / "emojibase-data/zh/data.json").read_text(encoding="utf-8"))
    concepts = []
    for entry in entries:
        code = entry["hexcode"].replace(VARIATION_SELECTOR, "")
        if "-" in code or entry.get("group") in (None, COMPONENTS_GROUP, FLAGS_GROUP):
            continue
        tags = tuple(tag for tag in entry.get("tags", ()) if not tag.isascii() and tag != entry["label"])
        concepts.append(Concept(int(code, 16), entry["label"], tags, entry["group"]))
    return sorted(concepts, key=lambda concept: concept.image_id)
