"""`wentu status`: the services and the collections."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import typer
from google.protobuf import json_format

from cli.client import TIMEOUT_SECONDS, Client, connected, explain, word
from cli.commands.collections import all_collections
from cli.options import GATEWAY, AsJson, Gateway
from cli.terminal import say, say_json, say_table, warn
from protos import admin_pb2, types_pb2
from protos import search_pb2 as pb

HEALTH_WORDS = {
    admin_pb2.SERVICE_HEALTH_SERVING: "serving",
    admin_pb2.SERVICE_HEALTH_NOT_SERVING: "not serving",
    admin_pb2.SERVICE_HEALTH_UNREACHABLE: "unreachable",
}
# The services that know the collections and their sizes.
KNOWING = ("retriever", "imagestore")


def status_command(as_json: AsJson = False, gateway: Gateway = GATEWAY) -> None:
    """Show each service: address, health, version, model or store, and the collections.

    Code 1 if a service does not serve. A collection whose stores differ is told, and does not change the code.
    """
    with connected(gateway) as client:
        status = client.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=TIMEOUT_SECONDS)
        collections, trouble = _collections(client, status.services)
    if as_json:
        document = json_format.MessageToDict(status)
        document["collections"] = [json_format.MessageToDict(collection) for collection in collections]
        if trouble:
            document["collectionsError"] = trouble
        say_json(document)
    else:
        _say_services(status.services)
        if trouble:
            say(f"collections: {trouble}")
        else:
            _say_collections(collections)
        for service in status.services:
            for warning in service.limit_warnings:
                warn(f"{service.address}: {warning}")
        for each in status.differences:
            say(
                f"{each.collection}: {each.image_count:,} images and {each.vector_count:,} vectors; "
                f"wentu reconcile {each.collection} repairs it"
            )
    if trouble or any(service.health != admin_pb2.SERVICE_HEALTH_SERVING for service in status.services):
        raise typer.Exit(1)


def _collections(client: Client, services: Sequence[admin_pb2.ServiceStatus]) -> tuple[list[pb.Collection], str]:
    """The collections with their sizes, and the reason if they are unknown because a service is down."""
    gone = [each.name for each in services if each.health == admin_pb2.SERVICE_HEALTH_UNREACHABLE]
    if missing := [name for name in gone if name in KNOWING]:  # a question would only take long
        return [], f"not known without {' and '.join(missing)}"
    try:
        return [
            client.collections.GetCollection(
                pb.GetCollectionRequest(collection=collection.id), timeout=TIMEOUT_SECONDS
            ).collection
            for collection in all_collections(client)
        ], ""
    except grpc.RpcError as error:
        return [], explain(error)


def _say_services(services: Sequence[admin_pb2.ServiceStatus]) -> None:
    rows = []
    for service in services:
        what = service.detail
        if service.HasField("model"):
            what = f"{service.model.name}, dim {service.model.dim}, {what}{_fidelity(service)}"
        rows.append((service.name, service.address, word(HEALTH_WORDS, service.health), service.version, what))
    say_table(("service", "address", "health", "version", "what"), rows)


def _fidelity(encoder: admin_pb2.ServiceStatus) -> str:
    """The fidelity of its vectors to those of f32, if the service states it."""
    if not encoder.HasField("fidelity"):
        return ""
    texts, images = encoder.fidelity.texts, encoder.fidelity.images
    return (
        f"; cosine to f32, least (mean): texts {texts.least_cosine:.5f} ({texts.mean_cosine:.5f}), "
        f"images {images.least_cosine:.5f} ({images.mean_cosine:.5f})"
    )


def _say_collections(collections: Sequence[pb.Collection]) -> None:
    indexes = {value: name.removeprefix("INDEX_TYPE_") for name, value in types_pb2.IndexType.items()}
    rows = [
        (
            collection.id,
            f"{collection.image_count:,}",
            f"{collection.image_bytes / 1e6:,.1f}",
            collection.model.name,
            f"{collection.precision} only" if collection.strict_precision else collection.precision,
            word(indexes, collection.index.type),
            f"{collection.indexed_count:,}",
        )
        for collection in collections
    ]
    say_table(("collection", "images", "MB", "model", "precision", "index", "indexed"), rows)
