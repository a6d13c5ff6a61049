"""The image store by itself, on SQLite and on MariaDB: one suite for both."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pymysql
import pytest
from grpc import aio
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import create_engine, make_url, text

from protos import imagestore_pb2 as pb
from protos import imagestore_pb2_grpc, types_pb2
from services.common.channels import open_channel
from services.common.limits import CHUNK_BYTES, MIB
from services.imagestore.__main__ import running
from services.imagestore.database import database_url
from services.imagestore.settings import ImageStoreSettings
from tests.support import servers
from tests.support.images import drawn, encoded, noise
from tests.support.system import refusal

if TYPE_CHECKING:  # the asynchronous stubs exist for type checkers alone
    Stub = imagestore_pb2_grpc.ImageStoreServiceAsyncStub


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "mariadb":
        return str(request.getfixturevalue("mariadb_address"))
    return str(tmp_path / "images.db")


@asynccontextmanager
async def serving(database: str, **more: Any) -> AsyncIterator[Stub]:
    settings = ImageStoreSettings(port=0, database=SecretStr(database), shutdown_grace_seconds=0, **more)
    async with running(settings) as port, open_channel(f"127.0.0.1:{port}", direct=True) as channel:
        yield imagestore_pb2_grpc.ImageStoreServiceStub(channel)


@pytest.fixture
async def stub(database: str) -> AsyncIterator[Stub]:
    async with serving(database) as made:
        await made.DropBlobs(pb.DropBlobsRequest(collection="c"))
        yield made


async def put(stub: Stub, **blobs: bytes) -> None:
    uploads = [pb.BlobUpload(image_id=image_id, data=data) for image_id, data in blobs.items()]
    await stub.PutBlobs(pb.PutBlobsRequest(collection="c", blobs=uploads))


async def counts(stub: Stub) -> tuple[int, int, int]:
    found = await stub.CountBlobs(pb.CountBlobsRequest(collection="c"))
    return found.count, found.content_count, found.content_bytes


async def test_attributes_come_back_as_they_were(stub: Stub) -> None:
    given = pb.BlobUpload(image_id="a", data=b"a")
    given.attributes.update({"标签": ["红🙂", 1.5, None, {"深": True}], "": "\x00\\'\"", "small": 5e-324, "null": None})
    none = pb.BlobUpload(image_id="b", data=b"b")
    none.attributes.SetInParent()
    unsaid = pb.BlobUpload(image_id="c", data=b"c")
    await stub.PutBlobs(pb.PutBlobsRequest(collection="c", blobs=[given, none, unsaid]))
    got = await stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=["a", "b", "c"], include_attributes=True))
    listed = await stub.ListBlobs(pb.ListBlobsRequest(collection="c", include_attributes=True))
    assert list(listed.blobs) == list(got.blobs)
    assert [blob.attributes for blob in got.blobs] == [given.attributes, none.attributes, unsaid.attributes]
    assert [blob.HasField("attributes") for blob in got.blobs] == [True, True, False]
    plain = await stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=["a"]))
    assert not plain.blobs[0].HasField("attributes")


async def test_a_page_ends_before_it_is_too_large_for_a_message(tmp_path: Path) -> None:
    settings = ImageStoreSettings(
        port=0, database=SecretStr(str(tmp_path / "images.db")), max_message_bytes=2 * MIB, max_image_bytes=MIB
    )
    async with running(settings) as port, open_channel(f"127.0.0.1:{port}", direct=True) as channel:
        stub: Stub = imagestore_pb2_grpc.ImageStoreServiceStub(channel)
        for number in range(40):
            upload = pb.BlobUpload(image_id=f"{number:02}", data=b"x")
            upload.attributes.update({"text": "字" * 20_000})
            await stub.PutBlobs(pb.PutBlobsRequest(collection="c", blobs=[upload]))
        request = pb.ListBlobsRequest(collection="c", page_size=1000, include_attributes=True)
        seen, pages = [], 0
        while pages == 0 or request.page_token:
            page = await stub.ListBlobs(request)
            assert page.ByteSize() < MIB
            seen += [blob.info.image_id for blob in page.blobs]
            pages, request.page_token = pages + 1, page.next_page_token
    assert seen == [f"{number:02}" for number in range(40)]
    assert pages == 3


async def test_images_that_one_answer_cannot_take_are_refused(database: str) -> None:
    async with serving(database, max_message_bytes=2 * MIB, max_image_bytes=MIB) as stub:
        await stub.DropBlobs(pb.DropBlobsRequest(collection="c"))
        sizes = {"a": 700_000, "b": 10, "c": 300_000, "d": 700_000, "e": 60_000}
        images = {image_id: os.urandom(size) for image_id, size in sizes.items()}
        await put(stub, **images)
        fits = pb.GetBlobsRequest(collection="c", image_ids=["a", "b", "c"], include_data=True)
        got = await stub.GetBlobs(fits)
        assert [blob.data for blob in got.blobs] == [images["a"], images["b"], images["c"]]
        for too_many in (["a", "d"], ["a", "b", "c", "e"]):
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=too_many, include_data=True))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "one answer takes 1,048,576" in str(caught.value.details())


async def test_a_database_of_the_first_version_is_brought_up_to_date(database: str) -> None:
    blob = pb.BlobUpload(image_id="old", data=b"old")
    async with serving(database) as stub:
        await stub.PutBlobs(pb.PutBlobsRequest(collection="first", creation_id="first", blobs=[blob]))
    mariadb = "://" in database
    engine = create_engine(make_url(database).set(drivername="mysql+pymysql") if mariadb else f"sqlite:///{database}")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE images DROP COLUMN attributes"))
        connection.execute(text("ALTER TABLE images DROP COLUMN revision"))
        connection.execute(text("DROP TABLE creations"))
        connection.execute(text("DELETE FROM images WHERE collection <> 'first'"))  # other tests made other creations
        connection.execute(text("UPDATE wentu_schema_version SET version_num = '0001'"))
    engine.dispose()
    async with serving(database) as stub:
        for creation_id in ("", "first"):
            got = await stub.GetBlobs(
                pb.GetBlobsRequest(
                    collection="first",
                    creation_id=creation_id,
                    image_ids=["old"],
                    include_data=True,
                    include_attributes=True,
                )
            )
            assert (got.blobs[0].data, got.blobs[0].revision, got.blobs[0].HasField("attributes")) == (b"old", 0, False)
        [revision] = (await stub.PutBlobs(pb.PutBlobsRequest(collection="first", blobs=[blob]))).revisions
        assert revision > 0
        assert (await stub.DropBlobs(pb.DropBlobsRequest(collection="first", creation_id="first"))).deleted_count == 1
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.PutBlobs(pb.PutBlobsRequest(collection="first", creation_id="first", blobs=[blob]))
        assert refusal(caught.value).reason == "COLLECTION_NOT_FOUND"


async def test_the_same_bytes_are_one_content(stub: Stub) -> None:
    one, two = os.urandom(5000), os.urandom(3000)
    await put(stub, a=one, b=one, c=two)
    assert await counts(stub) == (3, 2, 8000)
    await put(stub, a=two)  # replaced: `one` is still b's
    assert await counts(stub) == (3, 2, 8000)
    await stub.DeleteBlobs(pb.DeleteBlobsRequest(collection="c", image_ids=["b", "nope"]))
    assert await counts(stub) == (2, 1, 3000)
    got = await stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=["c", "b", "a"], include_data=True))
    assert [(blob.info.image_id, blob.data) for blob in got.blobs] == [("c", two), ("a", two)]
    dropped = await stub.DropBlobs(pb.DropBlobsRequest(collection="c"))
    assert dropped.deleted_count == 2
    assert await counts(stub) == (0, 0, 0)


async def test_ids_are_compared_byte_by_byte(stub: Stub) -> None:
    ids = ["a", "A", "a ", "ä", "a\u0308", "ß", "ss", "中", "😀", "'", "%", "_"]
    await stub.PutBlobs(
        pb.PutBlobsRequest(collection="c", blobs=[pb.BlobUpload(image_id=each, data=each.encode()) for each in ids])
    )
    seen: list[str] = []
    token = ""
    while True:
        page = await stub.ListBlobs(pb.ListBlobsRequest(collection="c", page_size=5, page_token=token))
        seen += [blob.info.image_id for blob in page.blobs]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(ids, key=str.encode)


async def test_streams_in_chunks_with_a_checksum(stub: Stub) -> None:
    data = os.urandom(3_000_000)
    digest = hashlib.sha256(data).hexdigest()

    async def write(sha256: str) -> pb.WriteBlobResponse:
        head = pb.WriteBlobHead(collection="c", blob=pb.BlobUpload(image_id="big"), sha256=sha256)
        parts = [pb.WriteBlobRequest(head=head)]
        parts += [pb.WriteBlobRequest(chunk=data[at : at + 700_000]) for at in range(0, len(data), 700_000)]
        return await stub.WriteBlob(iter(parts))

    with pytest.raises(aio.AioRpcError) as caught:
        await write("0" * 64)
    assert refusal(caught.value).reason == "CHECKSUM_MISMATCH"
    assert (await write(digest)).info.size_bytes == len(data)
    parts = [part async for part in stub.ReadBlob(pb.ReadBlobRequest(collection="c", image_id="big"))]
    assert parts[0].info.sha256 == digest
    assert b"".join(part.chunk for part in parts[1:]) == data
    assert max(len(part.chunk) for part in parts) <= CHUNK_BYTES
    head = pb.WriteBlobRequest(head=pb.WriteBlobHead(collection="c", blob=pb.BlobUpload(image_id="big")))
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.WriteBlob(iter([head, pb.WriteBlobRequest(chunk=bytes(MIB + 1))]))
    assert refusal(caught.value).reason == "INVALID_FIELD"
    with pytest.raises(aio.AioRpcError) as caught:
        await anext(aiter(stub.ReadBlob(pb.ReadBlobRequest(collection="c", image_id="big", rendition=7))))  # type: ignore[arg-type]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "rendition: 7 is not a value of Rendition" in (caught.value.details() or "")


async def test_thumbnails_are_made_once_and_go_with_their_content(stub: Stub) -> None:
    await put(stub, photo=encoded(drawn(1000, 500), "JPEG"), text=b"no image")
    request = pb.GetBlobsRequest(collection="c", image_ids=["photo", "text"], include_thumbnails=True)
    first, again = await stub.GetBlobs(request), await stub.GetBlobs(request)
    assert first == again
    photo, text = first.blobs
    with Image.open(io.BytesIO(photo.thumbnail)) as small:
        assert (small.format, small.size) == ("WEBP", (256, 128))
    assert text.thumbnail == b""
    thumbnail = pb.ReadBlobRequest(collection="c", image_id="photo", rendition=types_pb2.RENDITION_THUMBNAIL)
    info = (await anext(aiter(stub.ReadBlob(thumbnail)))).info
    assert (info.media_type, info.width, info.height) == ("image/webp", 256, 128)
    await stub.DeleteBlobs(pb.DeleteBlobsRequest(collection="c", image_ids=["photo"]))
    with pytest.raises(aio.AioRpcError) as caught:
        await anext(aiter(stub.ReadBlob(thumbnail)))
    assert refusal(caught.value).reason == "IMAGE_NOT_FOUND"


async def test_writers_side_by_side_lose_no_bytes(stub: Stub) -> None:
    """The same contents are put and deleted under many ids at once. Each id that remains has its bytes."""
    contents = [noise(seed, 16) for seed in range(3)]

    async def writer(number: int) -> None:
        for turn in range(8):
            data = contents[(number + turn) % 3]
            await put(stub, **{f"w{number}": data, "shared": data})
            if turn % 2:
                await stub.DeleteBlobs(pb.DeleteBlobsRequest(collection="c", image_ids=[f"w{number}", "shared"]))
        await put(stub, **{f"w{number}": contents[number % 3]})

    await asyncio.gather(*map(writer, range(6)))
    ids = [f"w{number}" for number in range(6)]
    got = await stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=ids, include_data=True))
    assert [blob.data for blob in got.blobs] == [contents[number % 3] for number in range(6)]
    images, kept, _ = await counts(stub)
    assert (images, kept) in ((6, 3), (7, 3))


async def test_a_revision_is_of_one_write(stub: Stub) -> None:
    blob = pb.BlobUpload(image_id="a", data=b"a", width=2**31 - 1)
    request = pb.PutBlobsRequest(collection="c", blobs=[blob])
    revisions = [(await stub.PutBlobs(request)).revisions[0] for _ in range(3)]
    assert len(set(revisions)) == 3
    got = await stub.GetBlobs(pb.GetBlobsRequest(collection="c", image_ids=["a"]))
    listed = await stub.ListBlobs(pb.ListBlobsRequest(collection="c"))
    assert got.blobs[0].revision == listed.blobs[0].revision == revisions[-1]
    delete = pb.DeleteBlobsRequest(collection="c", image_ids=["a"], revisions=revisions[:1])
    assert list((await stub.DeleteBlobs(delete)).deleted_image_ids) == []
    delete.revisions[0] = revisions[-1]
    assert list((await stub.DeleteBlobs(delete)).deleted_image_ids) == ["a"]
    assert await counts(stub) == (0, 0, 0)


async def test_what_is_dropped_stays_dropped(stub: Stub) -> None:
    """Puts run while their creation is dropped. They leave nothing behind, and the next creation is not changed."""
    old, new = (f"C{number:032x}" for number in (secrets.randbits(128), secrets.randbits(128)))
    refused = 0

    async def writer(number: int) -> None:
        nonlocal refused
        for turn in range(20):
            blob = pb.BlobUpload(image_id=f"{number} {turn}", data=os.urandom(100))
            try:
                await stub.PutBlobs(pb.PutBlobsRequest(collection="c", creation_id=old, blobs=[blob]))
            except aio.AioRpcError as error:
                if refusal(error).reason != "COLLECTION_NOT_FOUND":
                    raise
                refused += 1

    async def dropper() -> None:
        while not (await stub.CountBlobs(pb.CountBlobsRequest(collection="c", creation_id=old))).count:
            pass
        await stub.DropBlobs(pb.DropBlobsRequest(collection="c", creation_id=old))
        blob = pb.BlobUpload(image_id="new", data=b"new")
        await stub.PutBlobs(pb.PutBlobsRequest(collection="c", creation_id=new, blobs=[blob]))

    await asyncio.gather(dropper(), *map(writer, range(4)))
    assert refused
    assert (await stub.CountBlobs(pb.CountBlobsRequest(collection="c", creation_id=old))).count == 0
    assert list((await stub.ListCreations(pb.ListCreationsRequest(collection="c"))).creation_ids) == [new]
    assert await counts(stub) == (1, 1, 3), "who names no creation means the newest"
    unknown = f"C{secrets.randbits(128):032x}"  # dropped before its first image
    await stub.DropBlobs(pb.DropBlobsRequest(collection="c", creation_id=unknown))
    with pytest.raises(aio.AioRpcError) as caught:
        await put_into(stub, unknown)
    assert refusal(caught.value).reason == "COLLECTION_NOT_FOUND"


async def put_into(stub: Stub, creation_id: str) -> None:
    blob = pb.BlobUpload(image_id="late", data=b"late")
    await stub.PutBlobs(pb.PutBlobsRequest(collection="c", creation_id=creation_id, blobs=[blob]))


async def test_mistakes_name_their_fields(stub: Stub) -> None:
    blob = pb.BlobUpload(image_id="a", data=b"x")
    cases: dict[str, pb.PutBlobsRequest] = {
        "collection": pb.PutBlobsRequest(collection="No", blobs=[blob]),
        "blobs": pb.PutBlobsRequest(collection="c"),
        "blobs.image_id[1]": pb.PutBlobsRequest(collection="c", blobs=[blob, blob]),
        "blobs[0].data": pb.PutBlobsRequest(collection="c", blobs=[pb.BlobUpload(image_id="a")]),
        "blobs[0].width": pb.PutBlobsRequest(
            collection="c", blobs=[pb.BlobUpload(image_id="a", data=b"x", width=2**31)]
        ),
        "blobs[0].height": pb.PutBlobsRequest(
            collection="c", blobs=[pb.BlobUpload(image_id="a", data=b"x", height=2**32 - 1)]
        ),
        "creation_id": pb.PutBlobsRequest(collection="c", blobs=[blob], creation_id="d"),
        "blobs[0].image_id": pb.PutBlobsRequest(collection="c", blobs=[pb.BlobUpload(data=b"x")]),
    }
    for field, request in cases.items():
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.PutBlobs(request)
        assert refusal(caught.value).fields == (field,)
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ListBlobs(pb.ListBlobsRequest(collection="c", page_token="!"))
    assert refusal(caught.value).fields == ("page_token",)


async def test_partitions_as_the_readme_has_them(tmp_path: Path, project: Path) -> None:
    [statement] = re.findall(r"`(ALTER TABLE contents [^`]+)`", (project / "README.md").read_text())
    with servers.mariadb(tmp_path) as address:
        settings = ImageStoreSettings(port=0, database=SecretStr(address), shutdown_grace_seconds=0)
        async with running(settings) as port, open_channel(f"127.0.0.1:{port}", direct=True) as channel:
            stub = imagestore_pb2_grpc.ImageStoreServiceStub(channel)
            await put(stub, before=noise(0))
            url = make_url(address)
            with pymysql.connect(host=url.host, port=url.port or 0, user="root", database="wentu") as connection:
                connection.cursor().execute(statement)
            await put(stub, after=noise(1), twin=noise(0))
            assert await counts(stub) == (3, 2, len(noise(0)) + len(noise(1)))
            await stub.DeleteBlobs(pb.DeleteBlobsRequest(collection="c", image_ids=["before", "after"]))
            assert await counts(stub) == (1, 1, len(noise(0)))


async def test_a_image_beyond_max_allowed_packet(tmp_path: Path) -> None:
    """The statement is refused before it is sent, the message names the size, and the connection stays usable."""
    with servers.mariadb(tmp_path, "--max-allowed-packet=1M") as address:
        settings = ImageStoreSettings(port=0, database=SecretStr(address), shutdown_grace_seconds=0)
        async with running(settings) as port, open_channel(f"127.0.0.1:{port}", direct=True) as channel:
            stub = imagestore_pb2_grpc.ImageStoreServiceStub(channel)
            for size in (1_200_000, 600_000):  # a statement writes each byte as two hexadecimal digits
                with pytest.raises(aio.AioRpcError) as caught:
                    await put(stub, big=os.urandom(size))
                refused = refusal(caught.value)
                assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_TOO_LARGE")
                assert "1,048,576" in refused.message
            await put(stub, small=os.urandom(480_000))
            assert await counts(stub) == (1, 1, 480_000)


async def test_a_password_from_an_option_file(mariadb_address: str, tmp_path: Path) -> None:
    """MySQL's own way to keep a password out of addresses."""
    url = make_url(mariadb_address)
    options = tmp_path / "my.cnf"
    options.write_text("[client]\nuser = filed\npassword = geheim\n")
    with pymysql.connect(host=url.host or "", port=url.port or 0, user="root") as connection:
        connection.cursor().execute("GRANT ALL ON wentu.* TO filed@'%' IDENTIFIED BY 'geheim'")
    async with serving(f"mysql://{url.host}:{url.port}/wentu?read_default_file={options}") as stub:
        assert (await stub.GetBlobStore(pb.GetBlobStoreRequest())).kind == "mariadb"


@pytest.mark.parametrize(
    "address", ["mysql://user:geheim@host:port/db", "mysql:/user:geheim@h/://", "mysql://u:pw@ge:heim/db"]
)
def test_a_bad_address_does_not_show_its_password(address: str) -> None:
    with pytest.raises(ValueError, match="must have the form mysql://") as refused:
        database_url(address)
    assert "heim" not in str(refused.value)
