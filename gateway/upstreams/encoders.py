"""The encoders that the gateway knows: one for new collections, and those of collections built with other models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.settings import GatewaySettings
from gateway.upstreams.upstream import Upstream
from protos import encoder_pb2 as pb
from protos import encoder_pb2_grpc
from services.common.calls import calling, outgoing
from services.common.errors import UpstreamUnavailable, WentuError
from services.common.fingerprint import Fingerprint

# How long an encoder is taken to have the model that it had.
MODEL_SECONDS = 5.0


class Encoder:
    """One encoder service."""

    def __init__(self, address: str, settings: GatewaySettings) -> None:
        self.dependency = Upstream("encoder", address, settings)
        self._limit_seconds = settings.timeout_seconds
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self.dependency.channel)

    async def get_model(self) -> pb.GetModelResponse:
        async with calling("encoder"):
            return await self._stub.GetModel(pb.GetModelRequest(), **outgoing(self._limit_seconds))

    async def encode_texts(self, texts: Sequence[str]) -> pb.EncodeTextsResponse:
        request = pb.EncodeTextsRequest(texts=texts)
        async with calling("encoder"):
            return await self._stub.EncodeTexts(request, **outgoing(self._limit_seconds))

    async def encode_images(self, images: Sequence[bytes]) -> pb.EncodeImagesResponse:
        request = pb.EncodeImagesRequest(images=images)
        async with calling("encoder"):
            return await self._stub.EncodeImages(request, **outgoing(self._limit_seconds))

    async def compare_texts(self, image: bytes, texts: Sequence[str]) -> pb.CompareTextsResponse:
        request = pb.CompareTextsRequest(image=image, texts=texts)
        async with calling("encoder"):
            return await self._stub.CompareTexts(request, **outgoing(self._limit_seconds))


@dataclass
class _Known:
    """An encoder with the model that it had when it was last asked."""

    encoder: Encoder
    model: Fingerprint | None = None
    asked: float = field(default=-MODEL_SECONDS)


class Encoders:
    """Finds the encoder for a model. The first is the one for whatever is new."""

    def __init__(self, settings: GatewaySettings) -> None:
        others = [address for address in settings.other_encoders.split(",") if address]
        self.all = [Encoder(address.strip(), settings) for address in (settings.encoder, *others)]
        self._known = [_Known(encoder) for encoder in self.all]

    @property
    def first(self) -> Encoder:
        return self.all[0]

    async def of(self, model: Fingerprint) -> Encoder:
        """The encoder that makes the vectors of `model`.

        Raises UpstreamUnavailable if several are known and none answers with it.

        The only one is returned unasked: what it encodes says by which model, and the retriever holds it to that.
        """
        if len(self._known) == 1:
            return self.first
        for known in self._known:
            if known.model is not None and known.model.fits(model) and time.monotonic() - known.asked < MODEL_SECONDS:
                return known.encoder
        for known in self._known:
            try:
                known.model = Fingerprint.from_message((await known.encoder.get_model()).model)
            except WentuError:
                known.model = None
            known.asked = time.monotonic()
        for known in self._known:
            if known.model is not None and known.model.fits(model):
                return known.encoder
        raise UpstreamUnavailable("encoder", f"none of the {len(self._known)} has {model}")

    async def close(self) -> None:
        for encoder in self.all:
            await encoder.dependency.channel.close()
