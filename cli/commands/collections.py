"""`wentu collections`: create, list, show and delete."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.console import Console

from cli.client import TIMEOUT_SECONDS, Client, connected
from cli.options import GATEWAY, AsJson, Gateway
from protos import search_pb2 as pb
from protos import types_pb2

collections_app = typer.Typer(help="Create, list and delete collections.", no_args_is_help=True)
console = Console()


@collections_app.command("create")
def create_command(
    collection: Annotated[str, typer.Argument(help="Id: lower-case letters, digits and underscores.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    index: Annotated[str, typer.Option(help="flat, hnsw, ivf_flat, ivf_sq8, diskann or autoindex.")] = "",
    gateway: Gateway = GATEWAY,
) -> None:
    """Create an empty collection for the encoder's model."""
    name = f"INDEX_TYPE_{index.upper()}" if index else "INDEX_TYPE_UNSPECIFIED"
    if name not in types_pb2.IndexType.keys():  # noqa: SIM118  # an enum, no dict
        sys.exit(f"wentu: there is no index {index}")
    spec = types_pb2.IndexSpec(type=types_pb2.IndexType.Value(name))
    with connected(gateway) as client:
        client.collections.CreateCollection(
            pb.CreateCollectionRequest(collection=collection, description=description, index=spec),
            timeout=TIMEOUT_SECONDS,
        )
    console.print(f"created {collection}")


@collections_app.command("list")
def list_command(as_json: AsJson = False, gateway: Gateway = GATEWAY) -> None:
    """List the collections."""
    with connected(gateway) as client:
        found = all_collections(client)
    if as_json:
        print(json.dumps([json_format.MessageToDict(each) for each in found], ensure_ascii=False, indent=2))
        return
    for each in found:
        console.print(f"{each.id}  {each.model.name}  {each.description}".rstrip(), markup=False)


@collections_app.command("show")
def show_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")], gateway: Gateway = GATEWAY
) -> None:
    """Show a collection's settings and size, as JSON."""
    with connected(gateway) as client:
        found = client.collections.GetCollection(
            pb.GetCollectionRequest(collection=collection), timeout=TIMEOUT_SECONDS
        )
    print(json_format.MessageToJson(found.collection, ensure_ascii=False))


@collections_app.command("delete")
def drop_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Delete a collection with all of its pictures."""
    if not yes:
        typer.confirm(f"delete {collection} and all of its pictures?", abort=True)
    with connected(gateway) as client:
        response = client.collections.DeleteCollection(
            pb.DeleteCollectionRequest(collection=collection), timeout=TIMEOUT_SECONDS
        )
    console.print(f"deleted {collection} with {response.deleted_image_count:,} pictures")


def all_collections(client: Client) -> list[pb.Collection]:
    found: list[pb.Collection] = []
    token = ""
    while True:
        page = client.collections.ListCollections(pb.ListCollectionsRequest(page_token=token), timeout=TIMEOUT_SECONDS)
        found.extend(page.collections)
        token = page.next_page_token
        if not token:
            return found
