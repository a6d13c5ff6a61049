"""Paths for Arrow, which treats every path as UTF-8. Milvus Lite reads and writes its files with Arrow."""

from __future__ import annotations

import os
from pathlib import Path


def arrow_path(path: Path) -> Path:
    """The path itself, or another path to the same file that Arrow can open.

    In a locale such as zh_CN.GBK the folder's name may not be UTF-8. Then the path goes through a descriptor of the
    folder, which stays open until the process ends. The folder must exist.
    """
    if os.fsencode(path) == str(path).encode(errors="surrogatepass"):
        return path
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    return Path(f"/proc/self/fd/{descriptor}") / path.name
