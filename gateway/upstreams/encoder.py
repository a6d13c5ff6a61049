"""The client of one encoder."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.settings import GatewaySettings
from gateway.upstreams.upstream import Upstream
from protos import encoder_pb2 as pb
from protos import encoder_pb2_grpc


class EncoderClient:
    """The calls of the encoder that the gateway makes. Each raises WentuError."""

    def __init__(self, address: str, settings: GatewaySettings) -> None:
        self.upstream = Upstream("encoder", address, settings)
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self.upstream.channel)

    async def get_model(self) -> pb.GetModelResponse:
        return await self.upstream.call(self._stub.GetModel, pb.GetModelRequest())

    async def encode_texts(self, texts: Sequence[str]) -> pb.EncodeTextsResponse:
        return await self.upstream.call(self._stub.EncodeTexts, pb.EncodeTextsRequest(texts=texts))

    async def encode_images(self, images: Sequence[bytes]) -> pb.EncodeImagesResponse:
        return await self.upstream.call(self._stub.EncodeImages, pb.EncodeImagesRequest(images=images))

    async def compare_texts(self, image: bytes, texts: Sequence[str]) -> pb.CompareTextsResponse:
        return await self.upstream.call(self._stub.CompareTexts, pb.CompareTextsRequest(image=image, texts=texts))
