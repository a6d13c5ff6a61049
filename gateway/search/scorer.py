"""How well texts describe one image."""

from __future__ import annotations

from gateway.upstreams.clients import Clients
from protos import search_pb2 as pb
from protos import types_pb2
from services.common.errors import InvalidField, WentuError
from services.common.ids import check_collection, check_count, check_image_id
from services.common.limits import MAX_TEXTS


class Scorer:
    """Compares an image, handed in or stored, with texts."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def score(self, request: pb.ScoreTextsRequest) -> pb.ScoreTextsResponse:
        """Raises InvalidField, UnreadableImage, ImageTooLarge, ImageNotFound."""
        check_count(request.texts, "texts", MAX_TEXTS)
        image = await self._image(request)
        try:
            compared = await self._clients.encoders.first.compare_texts(image, request.texts)
        except WentuError as error:
            raise error.renamed({"images[0]": "image"}) from error
        return pb.ScoreTextsResponse(results=compared.results, model=compared.model)

    async def _image(self, request: pb.ScoreTextsRequest) -> bytes:
        given = request.WhichOneof("picture")
        if given is None:
            raise InvalidField("image", "must be set, or stored")
        if given == "image":
            return request.image
        collection = check_collection(request.stored.collection, "stored.collection")
        image_id = check_image_id(request.stored.image_id, "stored.image_id")
        parts = self._clients.imagestore.read_blob(collection, image_id, types_pb2.RENDITION_ORIGINAL)
        return b"".join([part.chunk async for part in parts])
