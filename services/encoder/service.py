"""EncoderService: convert, call, convert."""

from __future__ import annotations

from grpc import aio

from protos import encoder_pb2 as pb
from protos import encoder_pb2_grpc, types_pb2
from services.common import __version__
from services.common.embeddings import to_embedding
from services.common.errors import WentuError
from services.common.interceptors import Context
from services.common.wire_errors import item_error
from services.encoder.encoder import EncodedImage, Encoder
from services.encoder.texts import CONTEXT_LENGTH

NAME = pb.DESCRIPTOR.services_by_name["EncoderService"].full_name


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._model = encoder.fingerprint.to_message()

    def add_to(self, server: aio.Server) -> None:
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self, server)

    async def EncodeTexts(self, request: pb.EncodeTextsRequest, context: Context) -> pb.EncodeTextsResponse:
        encoded = await self._encoder.encode_texts(request.texts)
        results = [
            pb.TextEmbedding(
                embedding=to_embedding(text.vector),
                token_count=text.token_count,
                truncated=text.truncated,
            )
            for text in encoded
        ]
        return pb.EncodeTextsResponse(results=results, model=self._model, precision=self._encoder.engine.precision)

    async def EncodeImages(self, request: pb.EncodeImagesRequest, context: Context) -> pb.EncodeImagesResponse:
        encoded = await self._encoder.encode_images(request.images)
        return pb.EncodeImagesResponse(
            results=[image_message(each) for each in encoded],
            model=self._model,
            precision=self._encoder.engine.precision,
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return model_message(self._encoder)

    async def CompareTexts(self, request: pb.CompareTextsRequest, context: Context) -> pb.CompareTextsResponse:
        similarities = await self._encoder.compare(request.image, request.texts)
        results = [
            types_pb2.TextSimilarity(score=each.score, logit=each.logit, probability=each.probability)
            for each in similarities
        ]
        return pb.CompareTextsResponse(results=results, model=self._model)


def image_message(encoded: EncodedImage | WentuError) -> pb.ImageEmbedding:
    if isinstance(encoded, WentuError):
        return pb.ImageEmbedding(error=item_error(encoded))
    return pb.ImageEmbedding(
        embedding=to_embedding(encoded.vector),
        media_type=encoded.media_type,
        width=encoded.width,
        height=encoded.height,
    )


def model_message(encoder: Encoder) -> pb.GetModelResponse:
    settings = encoder.settings
    return pb.GetModelResponse(
        model=encoder.fingerprint.to_message(),
        context_length=CONTEXT_LENGTH,
        image_resolution=encoder.image_resolution,
        engine=encoder.engine.name,
        device=encoder.engine.device,
        precision=encoder.engine.precision,
        limits=pb.EncoderLimits(
            max_texts=settings.max_texts,
            max_text_chars=settings.max_text_chars,
            max_images=settings.max_images,
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
        ),
        version=__version__,
        fidelity=encoder.fidelity.to_message() if encoder.fidelity else None,
        messages=settings.message_limits(),
    )
