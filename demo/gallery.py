"""Write the gallery: one maker's emoji as images, in Chinese-CLIP's dataset format.

    python -m demo.gallery

`demo_imgs.tsv` holds image_id, a tab, and the image in base64; `demo_texts.jsonl` holds the captions: the emoji's
Chinese names. An image id is the emoji's code point.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path

from demo.artwork import GALLERY_MAKER, Maker, on_white
from demo.concepts import load_concepts

IMAGE_PIXELS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artwork", type=Path, default=Path("demo/node_modules"))
    parser.add_argument("--out", type=Path, default=Path("demo/gallery"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    maker = Maker(arguments.artwork, GALLERY_MAKER)
    concepts = load_concepts(arguments.artwork)
    with (arguments.out / "demo_imgs.tsv").open("w", encoding="ascii") as images:
        for concept in concepts:
            file = io.BytesIO()
            on_white(maker.render(concept.image_id, IMAGE_PIXELS)).save(file, "WEBP", quality=80, method=6)
            images.write(f"{concept.image_id}\t{base64.b64encode(file.getvalue()).decode()}\n")
    with (arguments.out / "demo_texts.jsonl").open("w", encoding="utf-8") as texts:
        for text_id, concept in enumerate(concepts, start=1):
            entry = {"text_id": text_id, "text": concept.name, "image_ids": [concept.image_id]}
            texts.write(json.dumps(entry, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
