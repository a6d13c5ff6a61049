"""`wentu search`: images by a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from cli.client import TIMEOUT_SECONDS, Client, connected
from cli.options import COLLECTION, GATEWAY, AsJson, Collection, Gateway
from protos import search_pb2 as pb

console = Console()


def search_command(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Collection = COLLECTION,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Number of hits.")] = 10,
    exact: Annotated[bool, typer.Option(help="Compare with every picture.")] = False,
    as_json: AsJson = False,
    sheet: Annotated[Path | None, typer.Option(help="Draw the hits into this picture file.")] = None,
    gateway: Gateway = GATEWAY,
) -> None:
    """Search a collection by a sentence or a word."""
    query = pb.Query(text=text)
    with connected(gateway) as client:
        response = client.search.Search(
            pb.SearchRequest(collection=collection, query=query, top_k=top_k, exact=exact), timeout=TIMEOUT_SECONDS
        )
        if sheet is not None:
            _draw(client, collection, text, response, sheet)
    if as_json:
        print(json_format.MessageToJson(response, ensure_ascii=False))
        return
    table = Table(title=text, title_justify="left")
    for heading, side in (("rank", "right"), ("id", "left"), ("score", "right"), ("caption", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for rank, hit in enumerate(response.hits, start=1):
        table.add_row(str(rank), hit.image_id, f"{hit.score:.4f}", _caption(hit))
    console.print(table)
    if response.text_truncated:
        console.print("the text is longer than the model takes: only its beginning was searched for")
    if response.images_unavailable:
        console.print("the image store does not answer: ids and scores only")


def _caption(hit: pb.Hit) -> str:
    """The first of the picture's captions, where it was imported with some."""
    captions = hit.attributes.fields["captions"].list_value.values if "captions" in hit.attributes.fields else ()
    return captions[0].string_value if captions else ""


def _draw(client: Client, collection: str, text: str, response: pb.SearchResponse, path: Path) -> None:
    from cli.sheet import Cell, draw_sheet  # Pillow takes its time to load, and only this needs it

    cells = [
        Cell(client.read_image(collection, hit.image_id, thumbnail=True), hit.score, _caption(hit))
        for hit in response.hits
    ]
    draw_sheet(text, cells, path)
