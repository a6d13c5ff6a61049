"""`wentu similarity`: texts against an image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from cli.client import TIMEOUT_SECONDS, connected
from cli.options import GATEWAY, AsJson, Gateway
from protos import search_pb2 as pb

console = Console()


def similarity_command(
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    texts: Annotated[list[str], typer.Argument(help="Texts that may describe it.")],
    as_json: AsJson = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Show how well each text describes a picture."""
    try:
        data = image.read_bytes()
    except OSError as error:
        sys.exit(f"wentu: {error}")
    with connected(gateway) as client:
        response = client.search.ScoreTexts(pb.ScoreTextsRequest(image=data, texts=texts), timeout=TIMEOUT_SECONDS)
    if as_json:
        print(json_format.MessageToJson(response, ensure_ascii=False))
        return
    table = Table("text", "score", "logit", "probability")
    for text, result in zip(texts, response.results, strict=True):
        table.add_row(text, f"{result.score:.4f}", f"{result.logit:.2f}", f"{result.probability:.1%}")
    console.print(table)
