"""Paths for Arrow, with which Milvus Lite reads and writes its files: it takes every path for UTF-8."""

from __future__ import annotations

import os
from pathlib import Path


def arrow_path(path: Path) -> Path:
    """The path itself, or one to the same file that Arrow can open.

    In a locale like zh_CN.GBK the folder's name is not UTF-8. It is reached by way of a descriptor then, which stays
    open as long as the process: its folder must exist.
    """
    if os.fsencode(path) == str(path).encode(errors="surrogatepass"):
        return path
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    return Path(f"/proc/self/fd/{descriptor}") / path.name
