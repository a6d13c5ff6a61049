"""The encoders that the gateway knows: one for new collections, and those of collections built with other models."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from gateway.settings import GatewaySettings
from gateway.upstreams.encoder import EncoderClient
from gateway.upstreams.known_collections import KnownCollections
from services.common.errors import UpstreamUnavailable, WentuError
from services.common.fingerprint import Fingerprint

# How long the known model of an encoder is trusted.
MODEL_SECONDS = 5.0


@dataclass
class _Known:
    """An encoder, and its model at the last time that it was asked."""

    encoder: EncoderClient
    model: Fingerprint | None = None
    asked: float = field(default=-MODEL_SECONDS)


class Encoders:
    """Finds the encoder for a model. New collections get the model of the first encoder."""

    def __init__(self, settings: GatewaySettings, collections: KnownCollections) -> None:
        self._collections = collections
        others = [address for address in settings.other_encoders.split(",") if address]
        self.all = [EncoderClient(address.strip(), settings) for address in (settings.encoder, *others)]
        self._known = [_Known(encoder) for encoder in self.all]

    @property
    def first(self) -> EncoderClient:
        return self.all[0]

    async def of(self, model: Fingerprint) -> EncoderClient:
        """The encoder that makes the vectors of `model`.

        Raises UpstreamUnavailable if several are known and none answers with it.

        A single encoder is returned without asking it. Its answers name their model, and the retriever checks that.
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

    async def of_collection(self, collection: str, fresh: bool = False) -> EncoderClient:
        """The encoder that makes the vectors of a collection. `fresh`: its model may have changed a moment ago."""
        if len(self._known) == 1:
            return self.first
        found = await self._collections.get(collection, fresh)
        return await self.of(Fingerprint.from_message(found.model))

    async def close(self) -> None:
        for encoder in self.all:
            await encoder.upstream.close()
