"""Where pictures to import come from: a folder, a tar, or Chinese-CLIP's dataset files."""

from __future__ import annotations

from pathlib import Path

from cli.sources.archive import Tar
from cli.sources.chinese_clip import TSV_ENDING, ChineseClipDataset
from cli.sources.folder import Folder
from cli.sources.source import Source, SourceError, SourceImage

__all__ = ["ChineseClipDataset", "Folder", "Source", "SourceError", "SourceImage", "Tar", "open_source"]


def open_source(path: Path) -> Source:
    """The source at a path, by what is there. Raises SourceError."""
    if not path.exists():
        raise SourceError(f"there is nothing at {path}")
    if path.is_file():
        return ChineseClipDataset(path) if path.name.endswith(".tsv") else Tar(path)
    datasets = sorted(path.glob(f"*{TSV_ENDING}"))
    if len(datasets) > 1:
        names = ", ".join(each.name for each in datasets)
        raise SourceError(f"{path} has several splits ({names}): name one of the files")
    return ChineseClipDataset(datasets[0]) if datasets else Folder(path)
