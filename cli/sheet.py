"""`wentu search --sheet`: the results as one image."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL_PIXELS = 180
LABEL_PIXELS = 40
TITLE_PIXELS = 44
GAP_PIXELS = 12
COLUMNS = 5


@dataclass(frozen=True)
class Cell:
    """A result: the bytes of the image, its score, and a few words."""

    data: bytes
    score: float
    words: str


def draw_sheet(title: str, cells: Sequence[Cell], path: Path) -> None:
    """Write the results, best first, under a title if this machine has a font for it."""
    columns = min(COLUMNS, max(1, len(cells)))
    rows = -(-len(cells) // columns)
    chinese = chinese_font()
    title_pixels = TITLE_PIXELS if chinese else 0
    step_x, step_y = CELL_PIXELS + GAP_PIXELS, CELL_PIXELS + LABEL_PIXELS + GAP_PIXELS
    sheet = Image.new("RGB", (GAP_PIXELS + columns * step_x, title_pixels + GAP_PIXELS + rows * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    if chinese:
        draw.text((GAP_PIXELS, 8), title, fill="black", font=ImageFont.truetype(chinese, 24))
    small = ImageFont.truetype(chinese, 14) if chinese else ImageFont.load_default(14)
    for place, cell in enumerate(cells):
        left = GAP_PIXELS + place % columns * step_x
        top = title_pixels + GAP_PIXELS + place // columns * step_y
        with Image.open(io.BytesIO(cell.data)) as opened:
            image = opened.convert("RGB")
        image.thumbnail((CELL_PIXELS, CELL_PIXELS))
        sheet.paste(image, (left + (CELL_PIXELS - image.width) // 2, top + (CELL_PIXELS - image.height) // 2))
        words = f"{place + 1}. {cell.score:.3f}" + (f"  {cell.words}" if chinese else "")
        draw.text((left, top + CELL_PIXELS + 4), words[:20], fill="dimgray", font=small)
    sheet.save(path)


def chinese_font() -> str | None:
    """A font file with Chinese characters, if fontconfig finds one on this machine."""
    if shutil.which("fc-match") is None:
        return None
    command = ["fc-match", "--format=%{file}\n%{lang}", ":lang=zh-cn"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    file, _, languages = answer.partition("\n")
    return file if "zh-cn" in languages.split("|") and Path(file).suffix in (".ttf", ".ttc", ".otf") else None
