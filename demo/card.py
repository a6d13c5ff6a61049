"""Write the measured figures into the demo model's card.

python -m demo.card
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.fill_readme import between
from services.encoder.checkpoints import DEMO_FOLDER

CARD = "README.md"
FIGURES = "figures.json"
MAKERS = {
    "noto": "Noto (trained on; the gallery)",
    "twemoji": "Twemoji (trained on)",
    "openmoji": "OpenMoji (never seen)",
}


def tables(figures: dict[str, Any]) -> str:
    """The card's tables, in Markdown."""
    lines = ["| images | R@1 | R@5 | R@10 |", "| --- | --- | --- | --- |"]
    for maker, title in MAKERS.items():
        lines.append(f"| {title} | " + " | ".join(f"{figures[maker][f'R@{k}']:.1f}" for k in (1, 5, 10)) + " |")
    hits = figures["queries"]
    lines += [
        "",
        "| queries | hit@1 | hit@5 |",
        "| --- | --- | --- |",
        f"| 100 development queries | {hits['hit@1']:.0f} | {hits['hit@5']:.0f} |",
    ]
    return "\n".join(lines)


def main() -> None:
    card: Path = DEMO_FOLDER / CARD
    figures = json.loads((DEMO_FOLDER / FIGURES).read_text(encoding="utf-8"))
    card.write_text(between(card.read_text(encoding="utf-8"), "figures", tables(figures)), encoding="utf-8")


if __name__ == "__main__":
    main()
