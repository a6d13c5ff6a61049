"""What Chinese-CLIP itself does to a text before its model sees it: the oracle of the encoder's texts."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from services.encoder.checkpoints import cn_clip_folder
from services.encoder.cn_clip_import import tokenize


@cache
def data_code(part: str) -> Callable[[str], str]:
    """`_preprocess_text` of cn_clip's `training` or `eval`, out of its file: importing that takes lmdb."""
    path: Path = cn_clip_folder().parent / part / "data.py"
    [found] = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "_preprocess_text"
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.Module([found], []), str(path), "exec"), names)
    function: Callable[[str], str] = names["_preprocess_text"]
    return function


def cn_clip_ids(text: str) -> list[int]:
    """The ids of a text as its data code gives them, those of the ends included, without padding."""
    row = tokenize([data_code("eval")(text)])[0]
    return [int(number) for number in row[row.ne(0)]]
