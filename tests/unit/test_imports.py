"""Who may know whom: services, packages of the gateway, and the vector store's product."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PARTS = ("services.encoder", "services.retriever", "services.imagestore", "gateway", "cli", "services.common")
# Where the vector store is chosen, and what it is told.
CHOOSING = {"services/retriever/__main__.py", "services/retriever/settings.py"}


def imported(path: Path) -> set[str]:
    """The modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("part", PARTS)
def test_a_service_imports_no_other_service(part: str) -> None:
    others = tuple(other for other in PARTS if other not in (part, "services.common"))
    for path in (PROJECT / part.replace(".", "/")).rglob("*.py"):
        strangers = {name for name in imported(path) if name.startswith(others)}
        assert not strangers, f"{path}: {strangers}"


def test_the_packages_of_the_gateway_import_each_other_in_one_direction() -> None:
    """The modules that lie in no package count as packages of their own."""
    needs: defaultdict[str, set[str]] = defaultdict(set)
    for path in (PROJECT / "gateway").rglob("*.py"):
        package = path.relative_to(PROJECT / "gateway").parts[0].removesuffix(".py")
        names = {name.split(".")[1] for name in imported(path) if name.startswith("gateway.")}
        needs[package] |= names - {package}
    # Raises CycleError, which names the circle.
    assert "ingest" in TopologicalSorter(needs).static_order()


def test_nothing_but_its_own_folder_names_the_vector_store() -> None:
    named = {
        str(path.relative_to(PROJECT))
        for folder in ("services", "gateway")
        for path in (PROJECT / folder).rglob("*.py")
        if re.search(r"milvus|\bLite\b|is_lite", path.read_text(encoding="utf-8"), re.IGNORECASE)
        and "services/retriever/milvus/" not in str(path)
    }
    assert named == CHOOSING
