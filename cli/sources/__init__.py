"""The sources of images for an import: a folder, an archive, one file, or Chinese-CLIP's dataset files."""

from __future__ import annotations

from pathlib import Path

from cli.sources.archive import Tar, Zip, is_zip
from cli.sources.chinese_clip import TEXTS_ENDING, TSV_ENDING, ChineseClipDataset
from cli.sources.folder import Folder, SingleImage
from cli.sources.source import Item, Source, SourceError, SourceFailure, SourceImage, is_leftover
from services.common.image_formats import HEAD_BYTES, image_format

__all__ = [
    "ChineseClipDataset",
    "Folder",
    "Item",
    "SingleImage",
    "Source",
    "SourceError",
    "SourceFailure",
    "SourceImage",
    "Tar",
    "Zip",
    "open_source",
]


def open_source(path: Path, encoding: str = "") -> Source:
    """The source at a path, by what is there. `encoding` is that of texts which are not UTF-8. Raises SourceError."""
    try:
        if path.is_dir():
            return _folder(path, encoding)
        if not path.exists():
            raise SourceError(f"there is nothing at {path}")
        if not path.is_file():
            raise SourceError(f"{path} is neither a file nor a folder")
        if path.name.endswith(".tsv"):
            return ChineseClipDataset(path, encoding)
        if path.name.endswith(TEXTS_ENDING):
            raise SourceError(f"{path} has the captions: name the file ending in {TSV_ENDING} beside it")
        with path.open("rb") as file:
            if image_format(file.read(HEAD_BYTES)):
                return SingleImage(path)
        return Zip(path) if is_zip(path) else Tar(path)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error


def _folder(path: Path, encoding: str) -> Source:
    datasets = sorted(path.glob(f"*{TSV_ENDING}"))
    if not datasets:
        return Folder(path)
    if len(datasets) > 1:
        names = ", ".join(each.name for each in datasets)
        raise SourceError(f"{path} has several splits ({names}): name one of the files")
    dataset = ChineseClipDataset(datasets[0], encoding)
    beside = [each for each in path.iterdir() if not each.name.endswith((TSV_ENDING, TEXTS_ENDING))]
    others = sum(not is_leftover(each.name) for each in beside)
    if others:
        dataset.passed_over[f"beside {datasets[0].name}"] = others
    return dataset
