"""Write the settings tables and a demo's output into both READMEs.

make demo | tee build/demo.txt; python -m scripts.fill_readme build/demo.txt
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from scripts.settings_table import chinese_tables, tables

FIRST_LINE = "Starting the four services ..."
END_OF_TABLE = "└"
LEFT_OUT = "..."
READMES = {"README.md": tables, "README.zh-CN.md": chinese_tables}


def between(text: str, name: str, body: str) -> str:
    """`text` with `body` between the marks of `name`."""
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
    return pattern.sub(lambda _: f"{marks[0]}\n\n{body}\n\n{marks[1]}", text)


def shortened(output: str) -> str:
    """A demo's output with the first of its searches and the last line; the searches between are left out."""
    lines = [line.rstrip() for line in output[output.index(FIRST_LINE) :].strip().splitlines()]
    end = next(place for place, line in enumerate(lines) if line.startswith(END_OF_TABLE)) + 1
    return "\n".join([*lines[:end], LEFT_OUT, lines[-1]])


def main() -> None:
    for path, settings in ((Path(name), settings) for name, settings in READMES.items()):
        text = between(path.read_text(encoding="utf-8"), "settings", settings())
        if len(sys.argv) > 1:
            output = Path(sys.argv[1]).read_text(encoding="utf-8")
            text = between(text, "demo output", f"```text\n{shortened(output)}\n```")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
