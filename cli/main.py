"""The commands of `wentu`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from cli.client import TIMEOUT_SECONDS, Client, connected
from cli.importing import CHOICES, ensure_collection, run_import
from cli.options import COLLECTION, GATEWAY, Collection, Gateway
from cli.snapshots import snapshot_app
from cli.sources import SourceError, open_source
from cli.up import UpError, services, up
from cli.upkeep import reconcile_command, reembed_command
from protos import admin_pb2, types_pb2
from protos import search_pb2 as pb
from services.common import __version__

app = typer.Typer(
    help="Search pictures with a Chinese sentence.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)
collections_app = typer.Typer(help="Create, list and delete collections.", no_args_is_help=True)
app.add_typer(collections_app, name="collections")
app.command("reconcile")(reconcile_command)
app.command("reembed")(reembed_command)
app.add_typer(snapshot_app, name="snapshot")
console = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
MAX_FAILURES_SHOWN = 20
PRECISION_NOTE = "the encoder computes in another precision than the collection's vectors: see `wentu status`"
HEALTH_WORDS = {
    admin_pb2.SERVICE_HEALTH_SERVING: "serving",
    admin_pb2.SERVICE_HEALTH_NOT_SERVING: "not serving",
    admin_pb2.SERVICE_HEALTH_UNREACHABLE: "unreachable",
}


@app.command("up")
def up_command(
    data: Annotated[Path, typer.Option(help="Folder for the embedded stores and the logs.")] = Path("wentu-data"),
    model: Annotated[str, typer.Option(help="demo, a name of cn_clip, a checkpoint file or folder.")] = "demo",
    old_model: Annotated[str, typer.Option(help="The model that collections still have: they stay searchable.")] = "",
    architecture: Annotated[
        str, typer.Option(help="For a checkpoint file without config.json: the name of cn_clip that it was tuned from.")
    ] = "",
    precision: Annotated[
        str, typer.Option(help="f32, bf16 or f16, of both models; by default the encoder's own choice.")
    ] = "",
    milvus: Annotated[str, typer.Option(help="A Milvus server instead of the embedded one: http://host:19530.")] = "",
    mysql: Annotated[str, typer.Option(help="A MySQL server instead of SQLite: mysql://user:pw@host/db.")] = "",
    host: Annotated[str, typer.Option(help="Address that the gateway listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the gateway; the others take the next three.")] = 50050,
) -> None:
    """Run all four services here until Ctrl-C."""
    wanted = services(data, host, port, model, milvus, mysql, old_model, architecture, precision)
    try:
        asyncio.run(up(wanted, data, console))
    except UpError as error:
        sys.exit(f"wentu: {error}")


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(help="A folder, a tar, or Chinese-CLIP's SPLIT_imgs.tsv.")],
    collection: Collection = COLLECTION,
    if_exists: Annotated[str, typer.Option(help="For an id that is there: skip, replace or fail.")] = "skip",
    gateway: Gateway = GATEWAY,
) -> None:
    """Import pictures; the collection is created where there is none. Repeating an import is safe."""
    if if_exists not in CHOICES:
        sys.exit(f"wentu: --if-exists must be one of {', '.join(CHOICES)}")
    try:
        opened = open_source(source)
    except SourceError as error:
        sys.exit(f"wentu: {error}")
    with connected(gateway) as client:
        ensure_collection(client, collection)
        report = run_import(client, opened, collection, if_exists, console)
    for image_id, problem in report.failures[:MAX_FAILURES_SHOWN]:
        console.print(f"  {image_id}: {problem}", markup=False, soft_wrap=True)
    if len(report.failures) > MAX_FAILURES_SHOWN:
        console.print(f"  and {len(report.failures) - MAX_FAILURES_SHOWN} more")
    console.print(
        ", ".join(f"{count:,} {word}" for word, count in sorted(report.counts.items())) or "nothing to import"
    )
    if pb.NOTE_PRECISION_MISMATCH in report.notes:
        console.print(PRECISION_NOTE)
    if report.failures:
        sys.exit(1)


@app.command("search")
def search_command(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Collection = COLLECTION,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Number of hits.")] = 10,
    exact: Annotated[bool, typer.Option(help="Compare with every picture.")] = False,
    as_json: AsJson = False,
    sheet: Annotated[Path | None, typer.Option(help="Draw the hits into this picture file.")] = None,
    gateway: Gateway = GATEWAY,
) -> None:
    """Search a collection by a sentence or a word."""
    query = pb.Query(text=text)
    with connected(gateway) as client:
        response = client.search.Search(
            pb.SearchRequest(collection=collection, query=query, top_k=top_k, exact=exact), timeout=TIMEOUT_SECONDS
        )
        if sheet is not None:
            _draw(client, collection, text, response, sheet)
    if as_json:
        print(json_format.MessageToJson(response, ensure_ascii=False))
        return
    table = Table(title=text, title_justify="left")
    for heading, side in (("rank", "right"), ("id", "left"), ("score", "right"), ("caption", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for rank, hit in enumerate(response.hits, start=1):
        table.add_row(str(rank), hit.image_id, f"{hit.score:.4f}", _caption(hit))
    console.print(table)
    if response.text_truncated:
        console.print("the text is longer than the model takes: only its beginning was searched for")
    if pb.NOTE_PRECISION_MISMATCH in response.notes:
        console.print(PRECISION_NOTE)
    if response.images_unavailable:
        console.print("the image store does not answer: ids and scores only")


@app.command("similarity")
def similarity_command(
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    texts: Annotated[list[str], typer.Argument(help="Texts that may describe it.")],
    as_json: AsJson = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Show how well each text describes a picture."""
    try:
        data = image.read_bytes()
    except OSError as error:
        sys.exit(f"wentu: {error}")
    with connected(gateway) as client:
        response = client.search.ScoreTexts(pb.ScoreTextsRequest(image=data, texts=texts), timeout=TIMEOUT_SECONDS)
    if as_json:
        print(json_format.MessageToJson(response, ensure_ascii=False))
        return
    table = Table("text", "score", "logit", "probability")
    for text, result in zip(texts, response.results, strict=True):
        table.add_row(text, f"{result.score:.4f}", f"{result.logit:.2f}", f"{result.probability:.1%}")
    console.print(table)


@app.command("delete")
def delete_command(
    image_ids: Annotated[list[str], typer.Argument(help="Ids of the pictures.")],
    collection: Collection = COLLECTION,
    gateway: Gateway = GATEWAY,
) -> None:
    """Delete pictures."""
    selection = pb.ImageIdList(image_ids=image_ids)
    with connected(gateway) as client:
        response = client.images.DeleteImages(
            pb.DeleteImagesRequest(collection=collection, ids=selection), timeout=TIMEOUT_SECONDS
        )
    for outcome in response.outcomes:
        console.print(f"{outcome.image_id}: {'deleted' if outcome.deleted else 'was not there'}", markup=False)


@app.command("status")
def status_command(as_json: AsJson = False, gateway: Gateway = GATEWAY) -> None:
    """Show each service: address, health, version, model or store, and the collections.

    Ends with 1 if a service does not serve. A collection whose stores differ is told, and does not change that.
    """
    with connected(gateway) as client:
        status = client.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=TIMEOUT_SECONDS)
        sizes = [
            client.collections.GetCollection(
                pb.GetCollectionRequest(collection=each.id), timeout=TIMEOUT_SECONDS
            ).collection
            for each in _all_collections(client)
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
            what = f"{service.model.name}, dim {service.model.dim}, {what}{_fidelity(service)}"
        table.add_row(service.name, service.address, HEALTH_WORDS[service.health], service.version, what)
    console.print(table)
    _print_collections(sizes)
    for each in status.differences:
        console.print(
            f"{each.collection}: {each.image_count:,} images and {each.vector_count:,} vectors; "
            f"wentu reconcile {each.collection} repairs it",
            markup=False,
            soft_wrap=True,
        )
    if any(service.health != admin_pb2.SERVICE_HEALTH_SERVING for service in status.services):
        sys.exit(1)


@collections_app.command("create")
def create_command(
    collection: Annotated[str, typer.Argument(help="Id: lower-case letters, digits and underscores.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    index: Annotated[str, typer.Option(help="flat, hnsw, ivf_flat, ivf_sq8, diskann or autoindex.")] = "",
    strict_precision: Annotated[
        bool, typer.Option("--strict-precision", help="Refuse vectors of another precision than the encoder has now.")
    ] = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Create an empty collection for the encoder's model."""
    name = f"INDEX_TYPE_{index.upper()}" if index else "INDEX_TYPE_UNSPECIFIED"
    if name not in types_pb2.IndexType.keys():  # noqa: SIM118  # an enum, no dict
        sys.exit(f"wentu: there is no index {index}")
    spec = types_pb2.IndexSpec(type=types_pb2.IndexType.Value(name))
    with connected(gateway) as client:
        client.collections.CreateCollection(
            pb.CreateCollectionRequest(
                collection=collection, description=description, index=spec, strict_precision=strict_precision
            ),
            timeout=TIMEOUT_SECONDS,
        )
    console.print(f"created {collection}")


@collections_app.command("list")
def list_command(as_json: AsJson = False, gateway: Gateway = GATEWAY) -> None:
    """List the collections."""
    with connected(gateway) as client:
        found = _all_collections(client)
    if as_json:
        print(json.dumps([json_format.MessageToDict(each) for each in found], ensure_ascii=False, indent=2))
        return
    for each in found:
        console.print(f"{each.id}  {each.model.name}  {each.description}".rstrip(), markup=False)


@collections_app.command("show")
def show_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")], gateway: Gateway = GATEWAY
) -> None:
    """Show a collection's settings and size, as JSON."""
    with connected(gateway) as client:
        found = client.collections.GetCollection(
            pb.GetCollectionRequest(collection=collection), timeout=TIMEOUT_SECONDS
        )
    print(json_format.MessageToJson(found.collection, ensure_ascii=False))


@collections_app.command("delete")
def drop_command(
    collection: Annotated[str, typer.Argument(help="Id of the collection.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    gateway: Gateway = GATEWAY,
) -> None:
    """Delete a collection with all of its pictures."""
    if not yes:
        typer.confirm(f"delete {collection} and all of its pictures?", abort=True)
    with connected(gateway) as client:
        response = client.collections.DeleteCollection(
            pb.DeleteCollectionRequest(collection=collection), timeout=TIMEOUT_SECONDS
        )
    console.print(f"deleted {collection} with {response.deleted_image_count:,} pictures")


@app.command("version")
def version_command() -> None:
    """Show the version."""
    print(__version__)


def _fidelity(encoder: admin_pb2.ServiceStatus) -> str:
    """How near its vectors are to those of f32, if it says so."""
    if not encoder.HasField("fidelity"):
        return ""
    texts, images = encoder.fidelity.texts, encoder.fidelity.images
    return (
        f"\ncosine to f32, least (mean): texts {texts.least_cosine:.5f} ({texts.mean_cosine:.5f}), "
        f"images {images.least_cosine:.5f} ({images.mean_cosine:.5f})"
    )


def _all_collections(client: Client) -> list[pb.Collection]:
    found: list[pb.Collection] = []
    token = ""
    while True:
        page = client.collections.ListCollections(pb.ListCollectionsRequest(page_token=token), timeout=TIMEOUT_SECONDS)
        found.extend(page.collections)
        token = page.next_page_token
        if not token:
            return found


def _print_collections(found: list[pb.Collection]) -> None:
    table = Table("collection", "pictures", "MB", "model", "precision", "index", "indexed")
    for each in found:
        index = types_pb2.IndexType.Name(each.index.type).removeprefix("INDEX_TYPE_")
        table.add_row(
            each.id,
            f"{each.image_count:,}",
            f"{each.image_bytes / 1e6:,.1f}",
            each.model.name,
            f"{each.precision} only" if each.strict_precision else each.precision,
            index,
            f"{each.indexed_count:,}",
        )
    console.print(table)


def _caption(hit: pb.Hit) -> str:
    """The first of the picture's captions, where it was imported with some."""
    captions = hit.attributes.fields["captions"].list_value.values if "captions" in hit.attributes.fields else ()
    return captions[0].string_value if captions else ""


def _draw(client: Client, collection: str, text: str, response: pb.SearchResponse, path: Path) -> None:
    from cli.sheet import Cell, draw_sheet  # Pillow takes its time to load, and only this needs it

    cells = [
        Cell(client.read_image(collection, hit.image_id, thumbnail=True), hit.score, _caption(hit))
        for hit in response.hits
    ]
    draw_sheet(text, cells, path)


if __name__ == "__main__":
    app()
