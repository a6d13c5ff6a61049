"""`wentu collections`: create, list, show and delete."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf import json_format

from cli.client import TIMEOUT_SECONDS, Client, connected
from cli.errors import CommandError
from cli.options import GATEWAY, AsJson, Gateway
from cli.terminal import say, say_json
from protos import search_pb2 as pb
from protos import types_pb2

collections_app = typer.Typer(help="Create, list and delete collections.", no_args_is_help=True)


@collections_app.command("create")
def create_command(
    collection: Annotated[str, typer.Argument(help="Id: lower-case letters, digits and underscores.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    index: Annotated[str, typer.Option(help="flat, hnsw, ivf_flat, ivf_sq8, diskann or autoindex.")] = "",
    strict_precision: Annotated[
        bool, typer.Option("--strict-precision", help="Refuse vectors of another precision than the encoder has now.")
    ] = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Create an empty collection for the encoder's model."""
    name = f"INDEX_TYPE_{index.upper()}" if index else "INDEX_TYPE_UNSPECIFIED"
    if name not in types_pb2.IndexType.keys():  # noqa: SIM118  # an enum, not a dict
        raise CommandError(f"there is no index {index}")
    spec = types_pb2.IndexSpec(type=types_pb2.IndexType.Value(name))
    with connected(gateway) as client:
        client.collections.CreateCollection(
            pb.CreateCollectionRequest(
                collection=collection, description=description, index=spec, strict_precision=strict_precision
            ),
            timeout=TIMEOUT_SECONDS,
        )
    say(f"created {collection}")


@collections_app.command("list")
def list_command(as_json: AsJson = False, gateway: Gateway = GATEWAY) -> None:
    """List the collections."""
    with connected(gateway) as client:
        collections = all_collections(client)
    if as_json:
        say_json([json_format.MessageToDict(collection) for collection in collections])
        return
    for collection in collections:
        say(f"{collection.id}  {collection.model.name}  {collection.description}".rstrip())


@collections_app.command("show")
def show_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")], gateway: Gateway = GATEWAY
) -> None:
    """Show a collection's settings and size, as JSON."""
    with connected(gateway) as client:
        response = client.collections.GetCollection(
            pb.GetCollectionRequest(collection=collection), timeout=TIMEOUT_SECONDS
        )
    say_json(json_format.MessageToDict(response.collection))


@collections_app.command("delete")
def drop_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Delete a collection with all of its images."""
    if not yes:
        typer.confirm(f"delete {collection} and all of its images?", abort=True)
    with connected(gateway) as client:
        response = client.collections.DeleteCollection(
            pb.DeleteCollectionRequest(collection=collection), timeout=TIMEOUT_SECONDS
        )
    say(f"deleted {collection} with {response.deleted_image_count:,} images")


def all_collections(client: Client) -> list[pb.Collection]:
    """All collections, without their sizes."""
    collections: list[pb.Collection] = []
    token = ""
    while True:
        page = client.collections.ListCollections(pb.ListCollectionsRequest(page_token=token), timeout=TIMEOUT_SECONDS)
        collections.extend(page.collections)
        if page.next_page_token in ("", token):  # the same token again would have no end
            return collections
        token = page.next_page_token
