"""The whole content of a collection, for a comparison before and after."""

from __future__ import annotations

from protos import search_pb2 as pb
from tests.support.system import CALL_SECONDS, System


def contents(system: System, collection: str) -> dict[str, tuple[bytes, bytes]]:
    """Image id -> (its details, attributes and vector, serialized; its bytes)."""
    listed = system.client.images.ListImages(
        pb.ListImagesRequest(collection=collection, page_size=1000), timeout=CALL_SECONDS
    ).images
    ids = [each.image.image_id for each in listed]
    request = pb.GetImageDetailsRequest(collection=collection, image_ids=ids, include_embeddings=True)
    details = system.client.images.GetImageDetails(request, timeout=CALL_SECONDS).images
    return {
        each.image.image_id: (
            each.SerializeToString(deterministic=True),
            system.read(collection, each.image.image_id),
        )
        for each in details
    }
