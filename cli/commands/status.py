"""`wentu status`: the services and the collections."""

from __future__ import annotations

import json
import sys

from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from cli.client import TIMEOUT_SECONDS, connected
from cli.commands.collections import all_collections
from cli.options import GATEWAY, AsJson, Gateway
from protos import admin_pb2, types_pb2
from protos import search_pb2 as pb

HEALTH_WORDS = {
    admin_pb2.SERVICE_HEALTH_SERVING: "serving",
    admin_pb2.SERVICE_HEALTH_NOT_SERVING: "not serving",
    admin_pb2.SERVICE_HEALTH_UNREACHABLE: "unreachable",
}
console = Console()


def status_command(as_json: AsJson = False, gateway: Gateway = GATEWAY) -> None:
    """Show each service: address, health, version, model or store, and the collections."""
    with connected(gateway) as client:
        status = client.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=TIMEOUT_SECONDS)
        sizes = [
            client.collections.GetCollection(
                pb.GetCollectionRequest(collection=each.id), timeout=TIMEOUT_SECONDS
            ).collection
            for each in all_collections(client)
        ]
    if as_json:
        document = json_format.MessageToDict(status)
        document["collections"] = [json_format.MessageToDict(each) for each in sizes]
        print(json.dumps(document, ensure_ascii=False, indent=2))
        return
    table = Table("service", "address", "health", "version", "what")
    for service in status.services:
        what = service.detail
        if service.HasField("model"):
            what = f"{service.model.name}, dim {service.model.dim}, {what}"
        table.add_row(service.name, service.address, HEALTH_WORDS[service.health], service.version, what)
    console.print(table)
    _print_collections(sizes)
    if any(service.health != admin_pb2.SERVICE_HEALTH_SERVING for service in status.services):
        sys.exit(1)


def _print_collections(found: list[pb.Collection]) -> None:
    table = Table("collection", "pictures", "MB", "model", "index", "indexed")
    for each in found:
        index = types_pb2.IndexType.Name(each.index.type).removeprefix("INDEX_TYPE_")
        table.add_row(
            each.id,
            f"{each.image_count:,}",
            f"{each.image_bytes / 1e6:,.1f}",
            each.model.name,
            index,
            f"{each.indexed_count:,}",
        )
    console.print(table)
