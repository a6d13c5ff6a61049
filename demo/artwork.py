"""Emoji artwork of several makers, rendered from the SVG of the iconify packages."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

TRAINING_MAKERS = ("noto", "twemoji", "fluent-emoji", "fluent-emoji-flat", "emojione")
UNSEEN_MAKER = "openmoji"
GALLERY_MAKER = "noto"
# Packages without a map from code points to icons use the icon names of one that has it.
MAPS = {"fluent-emoji": ("fluent-emoji-flat",), "emojione": ("noto", "twemoji", "openmoji")}


class Maker:
    """The icons of one maker, by code point."""

    def __init__(self, node_modules: Path, name: str) -> None:
        icons = json.loads((node_modules / f"@iconify-json/{name}/icons.json").read_text(encoding="utf-8"))
        self.name = name
        self._icons = icons["icons"]
        self._aliases = icons.get("aliases", {})
        self._width, self._height = icons.get("width", 16), icons.get("height", 16)
        self._names: dict[int, str] = {}
        for package in MAPS.get(name, (name,)):
            codes = json.loads((node_modules / f"@iconify-json/{package}/chars.json").read_text(encoding="utf-8"))
            for code, icon in codes.items():
                if "-" not in code.replace("-fe0f", "") and (icon in self._icons or icon in self._aliases):
                    self._names.setdefault(int(code.replace("-fe0f", ""), 16), icon)

    def __contains__(self, code_point: int) -> bool:
        return code_point in self._names

    def svg(self, code_point: int) -> str:
        """The SVG document of one emoji."""
        name = self._names[code_point]
        icon = self._icons.get(name) or self._icons[self._aliases[name]["parent"]]
        width, height = icon.get("width", self._width), icon.get("height", self._height)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
        )

    def render(self, code_point: int, size_pixels: int) -> Image.Image:
        """One emoji as a square RGBA image."""
        png = resvg_py.svg_to_bytes(svg_string=self.svg(code_point), width=size_pixels, height=size_pixels)
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        return image if image.size == (size_pixels, size_pixels) else image.resize((size_pixels, size_pixels))


def on_white(image: Image.Image, margin: float = 0.06) -> Image.Image:
    """The image on a white square with a margin (a share of its side)."""
    side = round(image.width * (1 + 2 * margin))
    canvas = Image.new("RGBA", (side, side), "white")
    offset = (side - image.width) // 2
    canvas.alpha_composite(image, (offset, offset))
    return canvas.convert("RGB")


def render_all(maker: Maker, code_points: list[int], size_pixels: int) -> npt.NDArray[np.uint8]:
    """uint8 [concepts, size, size, 4]; all zero if the maker has no such icon."""
    images = np.zeros((len(code_points), size_pixels, size_pixels, 4), dtype=np.uint8)
    for row, code_point in enumerate(code_points):
        if code_point in maker:
            images[row] = np.asarray(maker.render(code_point, size_pixels))
    return images
