"""`wentu delete`: images out of a collection."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.client import TIMEOUT_SECONDS, connected
from cli.options import COLLECTION, GATEWAY, Collection, Gateway
from cli.terminal import say
from protos import search_pb2 as pb


def delete_command(
    image_ids: Annotated[list[str], typer.Argument(help="Ids of the images.")],
    collection: Collection = COLLECTION,
    gateway: Gateway = GATEWAY,
) -> None:
    """Delete images."""
    selection = pb.ImageIdList(image_ids=image_ids)
    with connected(gateway) as client:
        response = client.images.DeleteImages(
            pb.DeleteImagesRequest(collection=collection, ids=selection), timeout=TIMEOUT_SECONDS
        )
    for outcome in response.outcomes:
        say(f"{outcome.image_id}: {'deleted' if outcome.deleted else 'was not there'}")
