"""The clients of the three services that the gateway orchestrates."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings import GatewaySettings
from gateway.upstreams.encoders import Encoders
from gateway.upstreams.imagestore import ImageStoreClient
from gateway.upstreams.known_collections import KnownCollections
from gateway.upstreams.retriever import RetrieverClient


@dataclass
class Clients:
    """One client per service, the encoders by model, and the known collections."""

    encoders: Encoders
    retriever: RetrieverClient
    imagestore: ImageStoreClient
    collections: KnownCollections

    @classmethod
    def open(cls, settings: GatewaySettings) -> Clients:
        """Channels to the addresses in the settings. They connect when they are used."""
        retriever = RetrieverClient(settings)
        collections = KnownCollections(retriever)
        return cls(Encoders(settings, collections), retriever, ImageStoreClient(settings), collections)

    async def close(self) -> None:
        await self.encoders.close()
        await self.retriever.upstream.close()
        await self.imagestore.upstream.close()
