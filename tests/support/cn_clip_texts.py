"""Chinese-CLIP's own preparation of a text, as the reference for the encoder."""

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
    """`_preprocess_text` of cn_clip's `training` or `eval`, read from its file, since importing it needs lmdb."""
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
    """The token ids of a text from cn_clip's data code, with the first and last special token, without padding."""
    row = tokenize([data_code("eval")(text)])[0]
    return [int(number) for number in row[row.ne(0)]]
