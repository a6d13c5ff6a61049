"""The memory of the image store is bounded for every request."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from PIL import Image

from protos import imagestore_pb2 as pb
from services.common.limits import MIB
from services.imagestore.thumbnails import make_thumbnail
from tests.services.test_imagestore import put, serving
from tests.support.images import drawn, encoded
from tests.support.system import refusal

THUMBNAIL: dict[str, Any] = {"side_pixels": 256, "max_pixels": 64_000_000, "form": "png"}


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "images.db")


async def test_an_id_that_is_repeated_is_answered_once(database: str) -> None:
    async with serving(database, max_message_bytes=2 * MIB) as stub:
        data = os.urandom(700_000)
        await put(stub, big=data, small=b"small")
        request = pb.GetBlobsRequest(collection="c", image_ids=["big", "small"] + ["big"] * 60, include_data=True)
        got = await stub.GetBlobs(request)
        assert [(blob.info.image_id, blob.data) for blob in got.blobs] == [("big", data), ("small", b"small")]
        gone = await stub.DeleteBlobs(pb.DeleteBlobsRequest(collection="c", image_ids=["big", "big"]))
        assert gone.deleted_image_ids == ["big"]


async def test_attributes_count_as_bytes_of_an_answer(database: str) -> None:
    """300 KB of JSON, which become a message of 1.3 MB."""
    async with serving(database, max_message_bytes=2 * MIB) as stub:
        ids = [str(number) for number in range(25)]
        blobs = [pb.BlobUpload(image_id=image_id, data=b"x") for image_id in ids]
        for blob in blobs:
            blob.attributes.update({"list": [1] * 4000})
        for some in (blobs[:13], blobs[13:]):
            await stub.PutBlobs(pb.PutBlobsRequest(collection="c", blobs=some))
        request = pb.GetBlobsRequest(collection="c", image_ids=ids, include_attributes=True)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.GetBlobs(request)
        assert refusal(caught.value).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1,048,576 bytes that one answer takes" in refusal(caught.value).message
        page = await stub.ListBlobs(pb.ListBlobsRequest(collection="c", page_size=1000, include_attributes=True))
        assert 1 < len(page.blobs) < 25
        assert page.ByteSize() < MIB + 1000


async def test_answers_wait_for_memory_and_give_it_back(database: str) -> None:
    async with serving(database, max_bytes_in_hand=20 * MIB, timeout_seconds=5) as stub:
        images = {name: os.urandom(15 * MIB) for name in "ab"}
        await put(stub, **images)
        stalled = stub.ReadBlob(pb.ReadBlobRequest(collection="c", image_id="a"))
        await anext(aiter(stalled))  # the caller does not read the rest
        request = pb.GetBlobsRequest(collection="c", image_ids=["b"], include_data=True)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.GetBlobs(request)
        found = refusal(caught.value)
        assert (found.code, found.reason, found.retry) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED", True)
        assert "20,971,520 bytes" in found.message
        await stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=["b"]))  # takes no share
        stalled.cancel()
        for _ in range(3):  # each call returns its share
            answers = await asyncio.gather(
                *(stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=[i], include_data=True)) for i in "ab")
            )
            assert [answer.blobs[0].data for answer in answers] == [images["a"], images["b"]]


async def test_unfinished_writes_are_bounded(database: str) -> None:
    async with serving(database, max_bytes_in_hand=3 * MIB, max_image_bytes=2 * MIB) as stub:

        def head(image_id: str) -> pb.WriteBlobRequest:
            return pb.WriteBlobRequest(head=pb.WriteBlobHead(collection="c", blob=pb.BlobUpload(image_id=image_id)))

        chunk = pb.WriteBlobRequest(chunk=bytes(MIB))
        first, second = stub.WriteBlob(), stub.WriteBlob()
        for part in (head("first"), chunk, chunk):
            await first.write(part)
        await asyncio.sleep(0.5)
        for part in (head("second"), chunk):
            await second.write(part)
        await asyncio.sleep(0.5)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.WriteBlob(iter([head("third"), chunk]))
        assert (refusal(caught.value).reason, refusal(caught.value).retry) == ("OVERLOADED", True)
        await first.done_writing()
        assert (await first).info.size_bytes == 2 * MIB
        assert (await stub.WriteBlob(iter([head("third"), chunk]))).info.size_bytes == MIB
        second.cancel()


def shown(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(make_thumbnail(data, **THUMBNAIL)))


def test_thumbnails_claim_what_they_decode() -> None:
    cases = {  # bytes per pixel of 1600 x 1200
        "PNG RGB": (encoded(drawn(1600, 1200)), 8),
        "PNG RGBA": (encoded(drawn(1600, 1200).convert("RGBA")), 8),
        "PNG P": (encoded(drawn(1600, 1200).quantize(16)), 16),
        "JPEG": (encoded(drawn(1600, 1200), "JPEG"), 8 / 4),  # decoded at half size
        "JPEG in passes": (encoded(drawn(1600, 1200), "JPEG", progressive=True), 8 / 4 + 6),
        "WEBP": (encoded(drawn(1600, 1200), "WEBP"), 20),
    }
    for name, (data, pixel_bytes) in cases.items():
        claimed: list[int] = []
        assert make_thumbnail(data, **THUMBNAIL, claim=claimed.append), name
        assert claimed == [1600 * 1200 * pixel_bytes], name


def test_thumbnails_are_upright_whatever_way_they_are_made() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        for mode, form in (("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "TIFF")):
            stored = encoded(drawn(1200, 800).convert(mode), form, exif=exif)
            small = shown(stored)
            assert small.size == ((256, 171) if orientation < 5 else (171, 256)), (orientation, form)
            corners = [small.getpixel(at) for at in ((8, 8), (small.width - 9, small.height - 9))]
            red = {1: 0, 3: 1, 5: 0, 7: 1}.get(orientation)
            if red is not None:
                corner = corners[red]
                assert isinstance(corner, tuple)
                assert corner[0] > 200 > 100 > corner[2], (orientation, mode, form)
