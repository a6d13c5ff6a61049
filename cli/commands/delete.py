"""`wentu delete`: images out of a collection."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cli.client import TIMEOUT_SECONDS, connected
from cli.options import COLLECTION, GATEWAY, Collection, Gateway
from protos import search_pb2 as pb

console = Console()


def delete_command(
    image_ids: Annotated[list[str], typer.Argument(help="Ids of the pictures.")],
    collection: Collection = COLLECTION,
    gateway: Gateway = GATEWAY,
) -> None:
    """Delete pictures."""
    selection = pb.ImageIdList(image_ids=image_ids)
    with connected(gateway) as client:
        response = client.images.DeleteImages(
            pb.DeleteImagesRequest(collection=collection, ids=selection), timeout=TIMEOUT_SECONDS
        )
    for outcome in response.outcomes:
        console.print(f"{outcome.image_id}: {'deleted' if outcome.deleted else 'was not there'}", markup=False)
