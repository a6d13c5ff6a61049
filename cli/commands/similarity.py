"""`wentu similarity`: texts against an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format

from cli.client import TIMEOUT_SECONDS, connected
from cli.errors import CommandError
from cli.options import GATEWAY, AsJson, Gateway
from cli.terminal import say_json, say_table
from protos import search_pb2 as pb


def similarity_command(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    texts: Annotated[list[str], typer.Argument(help="Texts that may describe it.")],
    as_json: AsJson = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Show how well each text describes an image."""
    data = image.read_bytes()
    with connected(gateway) as client:
        response = client.search.ScoreTexts(pb.ScoreTextsRequest(image=data, texts=texts), timeout=TIMEOUT_SECONDS)
    if len(response.results) != len(texts):
        raise CommandError(f"the gateway answered {len(response.results)} of {len(texts)} texts")
    if as_json:
        say_json(json_format.MessageToDict(response))
        return
    rows = [
        (text, f"{result.score:.4f}", f"{result.logit:.2f}", f"{result.probability:.1%}")
        for text, result in zip(texts, response.results, strict=True)
    ]
    say_table(("text", "score", "logit", "probability"), rows)
