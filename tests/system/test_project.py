"""The project's own promises: layout, contract, README, containers."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from cli.sources import SourceImage
from demo.queries import development_queries, hit_rate
from protos import errors_pb2
from scripts.fill_readme import READMES
from scripts.settings_table import SERVICES, chinese, tables
from services.common import errors
from tests.support.images import gallery
from tests.support.system import System


def test_channels_and_servers_are_made_in_one_place_each(project: Path) -> None:
    made = re.compile(r"\b(?:in)?secure_channel\(|\baio\.server\(|\bgrpc\.server\(")
    parts = ("services", "gateway", "cli")
    found = {path for part in parts for path in (project / part).rglob("*.py") if made.search(path.read_text())}
    assert {path.name for path in found} == {"channels.py", "server.py"}


def test_the_gateway_and_the_command_line_need_no_store_and_no_model() -> None:
    heavy = ("torch", "pymilvus", "sqlalchemy", "pymysql", "openvino", "cn_clip")
    script = f"import sys, gateway.__main__, cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_every_error_has_its_reason_in_the_contract() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.WentuError)]
    assert len(kinds) > 15
    for kind in kinds:
        assert f"ERROR_REASON_{kind.reason}" in errors_pb2.ErrorReason.keys(), kind  # noqa: SIM118
        assert kind.__name__ in (errors.__doc__ or ""), f"{kind.__name__} is missing in the tree"


@pytest.mark.parametrize("name", READMES)
def test_readme_has_the_settings_as_they_are(project: Path, name: str) -> None:
    assert READMES[name]() in (project / name).read_text(encoding="utf-8")


def test_every_chinese_text_of_the_settings_is_used() -> None:
    used: set[str] = set()
    tables(lambda text: used.add(text) or text)  # type: ignore[func-returns-value]
    assert set(chinese()) == used | {"the machine's cores"}


def test_both_readmes_are_in_step(project: Path) -> None:
    english, chinese = ((project / name).read_text(encoding="utf-8") for name in READMES)
    for pattern in (r"^#+ ", r"^\| ", r"^- ", r"^!\["):
        counts = [len(re.findall(pattern, text, flags=re.MULTILINE)) for text in (english, chinese)]
        assert counts[0] == counts[1], pattern


def test_the_gallery_is_found_as_well_as_the_model_card_says(project: Path, embedded: System) -> None:
    """Search the gallery by its names and by the development queries, through the running system."""
    figures = json.loads((project / "services/encoder/demo_model/figures.json").read_text())
    embedded.create("recall")
    try:
        embedded.add("recall", {image.image_id: image.data for image in gallery()})

        def rank(image: SourceImage) -> int:
            found = embedded.search("recall", image.attributes["captions"][0], top_k=10)
            ids = [hit.image_id for hit in found.hits]
            return ids.index(image.image_id) if image.image_id in ids else 10

        with ThreadPoolExecutor(8) as callers:
            ranks = list(callers.map(rank, gallery()))
        for k in (1, 5, 10):
            measured = 100 * sum(place < k for place in ranks) / len(ranks)
            # The card measures in fp32, and the engine may use bf16.
            assert measured == pytest.approx(figures["noto"][f"R@{k}"], abs=2.0), (k, measured)
        found = [embedded.search("recall", query.text, top_k=5).hits for query in development_queries()]
        for k in (1, 5):
            measured = hit_rate([[int(hit.image_id) for hit in hits] for hits in found], k)
            assert measured == pytest.approx(figures["queries"][f"hit@{k}"], abs=2.0), (k, measured)
    finally:
        embedded.drop("recall")


def test_compose_names_real_settings_and_targets(project: Path) -> None:
    compose = yaml.safe_load((project / "docker-compose.yml").read_text())
    dockerfile = (project / "Dockerfile").read_text()
    known = {
        f"{kind.model_config['env_prefix']}{name.upper()}" for kind in SERVICES.values() for name in kind.model_fields
    }
    for service in compose["services"].values():
        if "build" in service:
            target = service["build"]["target"]
            assert f"AS {target}\n" in dockerfile
            module = "gateway" if target == "gateway" else f"services.{target}"
            assert f'CMD ["python", "-m", "{module}"]' in dockerfile
            assert set(service["environment"]) <= known
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in compose["services"][needed]
