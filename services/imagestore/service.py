"""ImageStoreService: validate, call, convert."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import json_format, timestamp_pb2
from grpc import aio

from protos import imagestore_pb2 as pb
from protos import imagestore_pb2_grpc, types_pb2
from services.common import __version__
from services.common.attributes import check_attributes
from services.common.budget import Share
from services.common.errors import AnswerTooLarge, ChecksumMismatch, ImageTooLarge, InvalidField
from services.common.ids import (
    check_collection,
    check_count,
    check_distinct,
    check_image_id,
    check_image_ids,
    check_range,
    page_size,
    page_start,
    page_token,
)
from services.common.interceptors import Context
from services.common.limits import CHUNK_BYTES, MAX_BLOBS, MAX_MEDIA_TYPE_CHARS, MAX_WRITE_CHUNK_BYTES, MIB
from services.common.pages import fitting
from services.common.thread_pool import aside
from services.imagestore.records import Blob, Creation, Info, Upload
from services.imagestore.store import BlobStore
from services.imagestore.thumbnails import describe_thumbnail

NAME = pb.DESCRIPTOR.services_by_name["ImageStoreService"].full_name
MAX_SIDE_PIXELS = 2**31 - 1
CREATION_PATTERN = re.compile("C[0-9a-f]{32}")
# Bytes of a message that are reserved for everything except image bytes.
ANSWER_MARGIN_BYTES = MIB


class ImageStoreServicer(imagestore_pb2_grpc.ImageStoreServiceServicer):
    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._max_image_bytes = store.settings.max_image_bytes
        self._max_answer_bytes = store.settings.max_message_bytes - ANSWER_MARGIN_BYTES

    def add_to(self, server: aio.Server) -> None:
        imagestore_pb2_grpc.add_ImageStoreServiceServicer_to_server(self, server)

    async def PutBlobs(self, request: pb.PutBlobsRequest, context: Context) -> pb.PutBlobsResponse:
        check_count(request.blobs, "blobs", MAX_BLOBS)
        attributes_bytes = sum(blob.attributes.ByteSize() for blob in request.blobs)
        uploads = await aside(attributes_bytes, self._uploads, request)
        check_distinct([upload.image_id for upload in uploads], "blobs.image_id")
        infos = await self._store.put(_creation(request), uploads)
        return pb.PutBlobsResponse(
            infos=[_message(info) for info in infos], revisions=[info.revision for info in infos]
        )

    async def GetBlobs(self, request: pb.GetBlobsRequest, context: Context) -> pb.GetBlobsResponse:
        share = _until_done(context, self._store.answer())
        blobs = await self._store.blobs(
            _creation(request),
            check_image_ids(request.image_ids),
            request.include_data,
            request.include_thumbnails,
            request.include_attributes,
            self._max_answer_bytes,
            share,
        )
        return _answer(blobs, self._max_answer_bytes)

    async def ReadBlob(self, request: pb.ReadBlobRequest, context: Context) -> AsyncIterator[pb.ReadBlobResponse]:
        thumbnail = request.rendition == types_pb2.RENDITION_THUMBNAIL
        share = _until_done(context, self._store.answer())
        blob = await self._store.one(_creation(request), check_image_id(request.image_id), thumbnail, share)
        data = blob.thumbnail if thumbnail else blob.data
        yield pb.ReadBlobResponse(info=_thumbnail_message(blob.info, data) if thumbnail else _message(blob.info))
        for start in range(0, len(data), CHUNK_BYTES):
            yield pb.ReadBlobResponse(chunk=data[start : start + CHUNK_BYTES])

    async def WriteBlob(
        self, request_iterator: AsyncIterator[pb.WriteBlobRequest], context: Context
    ) -> pb.WriteBlobResponse:
        with self._store.receipt() as share:
            return await self._write(request_iterator, share)

    async def _write(self, requests: AsyncIterator[pb.WriteBlobRequest], share: Share) -> pb.WriteBlobResponse:
        """Receive one image in parts. `share`, of the budget for unfinished writes, grows with each part."""
        head: pb.WriteBlobHead | None = None
        data = bytearray()
        async for request in requests:
            if request.WhichOneof("part") == "head":
                if head is not None:
                    raise InvalidField("head", "comes once")
                head = request.head
            else:
                if len(request.chunk) > MAX_WRITE_CHUNK_BYTES:
                    raise InvalidField("chunk", f"must have at most {MAX_WRITE_CHUNK_BYTES:,} bytes")
                if len(data) + len(request.chunk) > self._max_image_bytes:
                    raise ImageTooLarge("chunk", f"the image has more than {self._max_image_bytes:,} bytes")
                share.grow(len(request.chunk))
                data += request.chunk
        if head is None:
            raise InvalidField("head", "must come first")
        if head.sha256 and head.sha256 != hashlib.sha256(data).hexdigest():
            raise ChecksumMismatch("head.sha256", "is not that of the bytes that came")
        upload = self._upload(head.blob, bytes(data), "head.blob")
        [info] = await self._store.put(_creation(head, "head."), [upload])
        return pb.WriteBlobResponse(info=_message(info))

    async def DeleteBlobs(self, request: pb.DeleteBlobsRequest, context: Context) -> pb.DeleteBlobsResponse:
        image_ids = check_image_ids(request.image_ids)
        if request.revisions and len(request.revisions) != len(image_ids):
            raise InvalidField("revisions", f"must be one for each id, got {len(request.revisions)}")
        revisions = dict(zip(image_ids, request.revisions, strict=True)) if request.revisions else None
        gone = await self._store.delete(_creation(request), image_ids, revisions)
        return pb.DeleteBlobsResponse(deleted_image_ids=gone)

    async def ListBlobs(self, request: pb.ListBlobsRequest, context: Context) -> pb.ListBlobsResponse:
        size = page_size(request.page_size)
        infos = await self._store.page(
            _creation(request), page_start(request.page_token), size + 1, request.include_attributes
        )
        blobs = fitting((_blob(Blob(info)) for info in infos), size, self._store.settings.max_message_bytes)
        return pb.ListBlobsResponse(
            blobs=blobs,
            next_page_token=page_token(blobs[-1].info.image_id) if len(blobs) < len(infos) else "",
        )

    async def CountBlobs(self, request: pb.CountBlobsRequest, context: Context) -> pb.CountBlobsResponse:
        counts = await self._store.count(_creation(request), request.images_only)
        return pb.CountBlobsResponse(
            count=counts.images, content_count=counts.contents, content_bytes=counts.content_bytes
        )

    async def ListCreations(self, request: pb.ListCreationsRequest, context: Context) -> pb.ListCreationsResponse:
        found = await self._store.creations(check_collection(request.collection))
        return pb.ListCreationsResponse(creation_ids=found)

    async def DropBlobs(self, request: pb.DropBlobsRequest, context: Context) -> pb.DropBlobsResponse:
        return pb.DropBlobsResponse(deleted_count=await self._store.drop(_creation(request)))

    async def GetBlobStore(self, request: pb.GetBlobStoreRequest, context: Context) -> pb.GetBlobStoreResponse:
        database = self._store.database
        return pb.GetBlobStoreResponse(
            kind=database.kind,
            store_version=database.version,
            version=__version__,
            max_image_bytes=self._max_image_bytes,
        )

    def _uploads(self, request: pb.PutBlobsRequest) -> list[Upload]:
        return [self._upload(blob, blob.data, f"blobs[{place}]") for place, blob in enumerate(request.blobs)]

    def _upload(self, blob: pb.BlobUpload, data: bytes, field: str) -> Upload:
        if not data:
            raise InvalidField(f"{field}.data", "holds no bytes")
        if len(data) > self._max_image_bytes:
            raise ImageTooLarge(f"{field}.data", f"has {len(data):,} bytes; the limit is {self._max_image_bytes:,}")
        if len(blob.media_type) > MAX_MEDIA_TYPE_CHARS:
            raise InvalidField(f"{field}.media_type", f"must have at most {MAX_MEDIA_TYPE_CHARS} characters")
        check_range(blob.width, f"{field}.width", 0, MAX_SIDE_PIXELS)
        check_range(blob.height, f"{field}.height", 0, MAX_SIDE_PIXELS)
        image_id = check_image_id(blob.image_id, f"{field}.image_id")
        attributes = None
        if blob.HasField("attributes"):
            check_attributes(blob.attributes, f"{field}.attributes")
            attributes = json_format.MessageToJson(blob.attributes, indent=None, ensure_ascii=False)
        return Upload(image_id, data, blob.media_type, blob.width, blob.height, attributes)


def _creation(request: Any, prefix: str = "") -> Creation:
    collection, creation_id = check_collection(request.collection, f"{prefix}collection"), request.creation_id
    if creation_id not in ("", collection) and not CREATION_PATTERN.fullmatch(creation_id):
        raise InvalidField(f"{prefix}creation_id", f"must match {CREATION_PATTERN.pattern}, got {creation_id[:80]!r}")
    return Creation(collection, creation_id)


def _until_done(context: Context, share: Share) -> Share:
    """Release `share` when the answer was sent or the call ended in another way."""

    def release(_: Context) -> None:
        share.release()

    context.add_done_callback(release)  # type: ignore[arg-type]  # the stubs want a class that does not exist
    return share


def _answer(blobs: list[Blob], max_bytes: int) -> pb.GetBlobsResponse:
    """Raises AnswerTooLarge as soon as the answer exceeds its limit, attributes and thumbnails included.

    Removes the items from `blobs`, so that each is freed after its copy.
    """
    response = pb.GetBlobsResponse()
    size = 0
    blobs.reverse()
    while blobs:  # each is freed after its copy
        message = _fill(response.blobs.add(), blobs.pop())
        size += message.ByteSize()
        if size > max_bytes:
            raise AnswerTooLarge(f"these images have more than the {max_bytes:,} bytes that one answer takes")
    return response


def _blob(blob: Blob) -> pb.Blob:
    return _fill(pb.Blob(), blob)


def _fill(message: pb.Blob, blob: Blob) -> pb.Blob:
    message.info.CopyFrom(_message(blob.info))
    message.data = blob.data
    message.thumbnail = blob.thumbnail
    message.revision = blob.info.revision
    if blob.info.attributes is not None:
        json_format.Parse(blob.info.attributes, message.attributes)
        message.attributes.SetInParent()  # an empty object is known too
    return message


def _message(info: Info) -> types_pb2.ImageInfo:
    create_time = timestamp_pb2.Timestamp()
    create_time.FromMilliseconds(info.create_time_ms)
    return types_pb2.ImageInfo(
        image_id=info.image_id,
        media_type=info.media_type,
        size_bytes=info.size_bytes,
        width=info.width,
        height=info.height,
        sha256=info.sha256,
        create_time=create_time,
    )


def _thumbnail_message(info: Info, data: bytes) -> types_pb2.ImageInfo:
    message = _message(info)
    message.media_type, message.width, message.height = describe_thumbnail(data)
    message.size_bytes = len(data)
    message.sha256 = hashlib.sha256(data).hexdigest()
    return message
