"""The gateway's four services: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog
from grpc import aio

from gateway.collections import Collections
from gateway.images import Images
from gateway.ingest.importer import Importer, Outcome
from gateway.ingest.pipeline import Finished, Pipeline
from gateway.ingest.unfinished import LookAfter
from gateway.maintenance.reconciler import Reconciler
from gateway.maintenance.reembedder import Reembedder
from gateway.maintenance.snapshots.snapshot_exporter import SnapshotExporter
from gateway.maintenance.snapshots.snapshot_importer import SnapshotImporter
from gateway.metrics import GatewayMetrics
from gateway.precision import PrecisionNotes
from gateway.search.scorer import Scorer
from gateway.search.searcher import Searcher
from gateway.settings import GatewaySettings
from gateway.status import Status
from gateway.upstreams.clients import Clients
from protos import admin_pb2, admin_pb2_grpc, search_pb2_grpc, types_pb2
from protos import search_pb2 as pb
from services.common.errors import InvalidField
from services.common.ids import check_collection, check_known
from services.common.interceptors import Context
from services.common.wire_errors import item_error

log = structlog.get_logger()

SEARCH, IMAGES, COLLECTIONS = (
    pb.DESCRIPTOR.services_by_name[name].full_name for name in ("SearchService", "ImageService", "CollectionService")
)
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    def __init__(self, searcher: Searcher, scorer: Scorer, metrics: GatewayMetrics) -> None:
        self._searcher = searcher
        self._scorer = scorer
        self._metrics = metrics

    def add_to(self, server: aio.Server) -> None:
        search_pb2_grpc.add_SearchServiceServicer_to_server(self, server)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        response = await self._searcher.search(request)
        self._metrics.searched(response.timings)
        return response

    async def ScoreTexts(self, request: pb.ScoreTextsRequest, context: Context) -> pb.ScoreTextsResponse:
        return await self._scorer.score(request)


class ImageServicer(search_pb2_grpc.ImageServiceServicer):
    def __init__(
        self,
        clients: Clients,
        images: Images,
        settings: GatewaySettings,
        notes: PrecisionNotes,
        look_after: LookAfter,
    ) -> None:
        self._clients = clients
        self._images = images
        self._settings = settings
        self._notes = notes
        self._look_after = look_after

    def add_to(self, server: aio.Server) -> None:
        search_pb2_grpc.add_ImageServiceServicer_to_server(self, server)

    def _importer(self, collection: str, creation_id: str, if_exists: types_pb2.IfExists.ValueType) -> Importer:
        return Importer(
            self._clients, self._settings, collection, creation_id, if_exists, self._notes, self._look_after
        )

    async def AddImage(self, request: pb.AddImageRequest, context: Context) -> pb.AddImageResponse:
        check_known(request.if_exists, types_pb2.IfExists, "if_exists")

        async def add(creation_id: str) -> Outcome:
            importer = self._importer(request.collection, creation_id, request.if_exists)
            [outcome] = await importer.add([request.image])
            if outcome.error is not None:
                raise outcome.error
            return outcome

        outcome = await self._clients.collections.on_creation(check_collection(request.collection), add)
        return pb.AddImageResponse(status=outcome.status, image=outcome.info, notes=outcome.notes)

    async def AddImages(
        self, request_iterator: AsyncIterator[pb.AddImagesRequest], context: Context
    ) -> AsyncIterator[pb.AddImagesResponse]:
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "options":
            raise InvalidField("options", "must come first")
        collection = check_collection(first.options.collection, "options.collection")
        check_known(first.options.if_exists, types_pb2.IfExists, "options.if_exists")
        # Not from the cache: the whole stream goes to the current creation.
        found = await self._clients.collections.get(collection, fresh=True)
        importer = self._importer(collection, found.creation_id, first.options.if_exists)
        async for finished in Pipeline(importer.add, self._settings).run(_uploads(request_iterator)):
            _log_failure(collection, finished)
            yield _response(finished)

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> AsyncIterator[pb.GetImageResponse]:
        async for part in self._images.read(request):
            yield part

    async def GetImageDetails(self, request: pb.GetImageDetailsRequest, context: Context) -> pb.GetImageDetailsResponse:
        return await self._images.details(request)

    async def ListImages(self, request: pb.ListImagesRequest, context: Context) -> pb.ListImagesResponse:
        return await self._images.page(request)

    async def DeleteImages(self, request: pb.DeleteImagesRequest, context: Context) -> pb.DeleteImagesResponse:
        return await self._images.delete(request)


class CollectionServicer(search_pb2_grpc.CollectionServiceServicer):
    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    def add_to(self, server: aio.Server) -> None:
        search_pb2_grpc.add_CollectionServiceServicer_to_server(self, server)

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        return pb.CreateCollectionResponse(collection=await self._collections.create(request))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        return pb.GetCollectionResponse(collection=await self._collections.get(request.collection))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        return await self._collections.page(request)

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        return pb.DeleteCollectionResponse(deleted_image_count=await self._collections.delete(request.collection))


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    def __init__(
        self,
        status: Status,
        reconciler: Reconciler,
        reembedder: Reembedder,
        exporter: SnapshotExporter,
        importer: SnapshotImporter,
    ) -> None:
        self._status = status
        self._reconciler = reconciler
        self._reembedder = reembedder
        self._exporter = exporter
        self._importer = importer

    def add_to(self, server: aio.Server) -> None:
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self, server)

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Context) -> admin_pb2.GetStatusResponse:
        return await self._status.get()

    async def Reconcile(
        self, request: admin_pb2.ReconcileRequest, context: Context
    ) -> AsyncIterator[admin_pb2.ReconcileResponse]:
        async for answer in self._reconciler.run(request):
            yield answer

    async def Reembed(
        self, request: admin_pb2.ReembedRequest, context: Context
    ) -> AsyncIterator[admin_pb2.ReembedResponse]:
        async for answer in self._reembedder.run(request):
            yield answer

    async def ExportSnapshot(
        self, request: admin_pb2.ExportSnapshotRequest, context: Context
    ) -> AsyncIterator[admin_pb2.ExportSnapshotResponse]:
        async for answer in self._exporter.run(request):
            yield answer

    async def ImportSnapshot(
        self, request_iterator: AsyncIterator[admin_pb2.ImportSnapshotRequest], context: Context
    ) -> admin_pb2.ImportSnapshotResponse:
        return admin_pb2.ImportSnapshotResponse(image_count=await self._importer.run(request_iterator))


async def _uploads(requests: AsyncIterator[pb.AddImagesRequest]) -> AsyncIterator[types_pb2.ImageUpload]:
    async for request in requests:
        if request.WhichOneof("part") != "image":
            raise InvalidField("image", "must be set in every message after the first")
        yield request.image


def _log_failure(collection: str, finished: Finished) -> None:
    """Log the failure, since the call itself ends with OK."""
    if (error := finished.outcome.error) is not None:
        log.warning(
            "image failed",
            collection=collection,
            image_id=finished.image_id,
            reason=error.reason,
            problem=error.message,
        )


def _response(finished: Finished) -> pb.AddImagesResponse:
    outcome: Outcome = finished.outcome
    return pb.AddImagesResponse(
        image_id=finished.image_id,
        index=finished.index,
        status=outcome.status,
        image=outcome.info,
        error=item_error(outcome.error) if outcome.error is not None else None,
        notes=outcome.notes,
    )
