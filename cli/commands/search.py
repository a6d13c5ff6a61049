"""`wentu search`: images by a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.protobuf import json_format

from cli.client import TIMEOUT_SECONDS, Client, connected, explain
from cli.errors import CommandError
from cli.filters import parse_filters
from cli.options import COLLECTION, GATEWAY, PRECISION_NOTE, AsJson, Collection, Gateway
from cli.terminal import say, say_json, say_table, warn
from protos import search_pb2 as pb
from protos import types_pb2
from services.common.limits import DEFAULT_TOP_K, MAX_TOP_K


def search_command(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Collection = COLLECTION,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=MAX_TOP_K, help="Number of hits.")] = DEFAULT_TOP_K,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help="Only images whose attributes fulfil this: year>=2020, tag=海边, draft!=true, or JSON of the "
            "contract's Filter. Several must all hold.",
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every image.")] = False,
    strong: Annotated[bool, typer.Option("--strong", help="See every acknowledged write.")] = False,
    as_json: AsJson = False,
    sheet: Annotated[Path | None, typer.Option(help="Draw the hits into this image file.")] = None,
    gateway: Gateway = GATEWAY,
) -> None:
    """Search a collection by a sentence or a word."""
    request = pb.SearchRequest(
        collection=collection,
        query=pb.Query(text=text),
        top_k=top_k,
        filter=parse_filters(filters or ()),
        exact=exact,
        consistency=types_pb2.CONSISTENCY_STRONG if strong else types_pb2.CONSISTENCY_UNSPECIFIED,
    )
    with connected(gateway) as client:
        response = client.search.Search(request, timeout=TIMEOUT_SECONDS)
        if as_json:
            say_json(json_format.MessageToDict(response))
        else:
            _say_hits(text, response)
        if sheet is not None:
            _draw(client, collection, text, response, sheet)


def _say_hits(text: str, response: pb.SearchResponse) -> None:
    rows = [
        (str(rank), hit.image_id, f"{hit.score:.4f}", _caption(hit)) for rank, hit in enumerate(response.hits, start=1)
    ]
    say_table(("rank", "id", "score", "caption"), rows, right=("rank", "score"), title=text)
    if response.text_truncated:
        say("the text is longer than the model takes: only its beginning was searched for")
    if pb.NOTE_PRECISION_MISMATCH in response.notes:
        say(PRECISION_NOTE)
    if response.images_unavailable:
        say("the image store does not answer: ids and scores only")


def _caption(hit: pb.Hit) -> str:
    """The first of the image's captions, if it was imported with some."""
    captions = hit.attributes.fields["captions"].list_value.values if "captions" in hit.attributes.fields else ()
    return captions[0].string_value if captions else ""


def _draw(client: Client, collection: str, text: str, response: pb.SearchResponse, path: Path) -> None:
    from cli.sheet import Cell, chinese_font, draw_sheet  # Pillow loads slowly, and only this function needs it

    if path.is_dir():
        raise CommandError(f"--sheet {path} is a folder; name an image file in it")
    try:
        cells = [
            Cell(client.read_image(collection, hit.image_id, types_pb2.RENDITION_THUMBNAIL), hit.score, _caption(hit))
            for hit in response.hits
        ]
        draw_sheet(text, cells, path)
    except grpc.RpcError as error:
        raise CommandError(f"--sheet: {explain(error)}") from error
    except (OSError, ValueError) as error:  # ValueError: an ending that names no image format
        raise CommandError(f"--sheet {path}: {getattr(error, 'strerror', None) or error}") from error
    if chinese_font() is None:
        warn(f"{path} has no texts: this machine has no font for Chinese (Debian: apt install fonts-noto-cjk)")
