"""Limits of different services that depend on each other."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from gateway.settings import GatewaySettings
from gateway.upstreams.clients import Clients
from gateway.upstreams.imagestore import ImageStoreClient
from gateway.upstreams.limits import Description, LimitsWatch, limit_warnings
from protos import encoder_pb2, imagestore_pb2, retriever_pb2, types_pb2
from services.common.errors import UpstreamUnavailable
from services.common.limits import MAX_IDS, MAX_IMAGES, MAX_PAGE_SIZE, MIB
from services.common.settings import ServerSettings
from services.encoder.settings import EncoderSettings
from services.imagestore.settings import ImageStoreSettings
from services.retriever.settings import RetrieverSettings


def encoder(**given: Any) -> encoder_pb2.GetModelResponse:
    settings = EncoderSettings(**given)
    limits = encoder_pb2.EncoderLimits(max_image_bytes=settings.max_image_bytes, max_images=settings.max_images)
    return encoder_pb2.GetModelResponse(limits=limits, messages=settings.message_limits())


def image_store(**given: Any) -> imagestore_pb2.GetBlobStoreResponse:
    settings = ImageStoreSettings(**given)
    return imagestore_pb2.GetBlobStoreResponse(
        max_image_bytes=settings.max_image_bytes, messages=settings.message_limits()
    )


def retriever(**given: Any) -> retriever_pb2.GetVectorStoreResponse:
    return retriever_pb2.GetVectorStoreResponse(messages=RetrieverSettings(**given).message_limits())


def test_the_defaults_agree() -> None:
    for import_batch in (GatewaySettings().import_batch, MAX_IMAGES):
        settings = GatewaySettings(import_batch=import_batch)
        for upstream in (encoder(), image_store(), retriever()):
            assert limit_warnings(settings, upstream) == []
    # A page of ids is handed on as it is.
    assert MAX_PAGE_SIZE <= MAX_IDS


@pytest.mark.parametrize(
    ("gateway", "upstream", "said"),
    [
        ({"max_image_bytes": 20 * MIB}, encoder(), "max_image_bytes of the encoder is 16,777,216"),
        ({"max_image_bytes": 20 * MIB}, image_store(), "max_image_bytes of the imagestore is 16,777,216"),
        ({}, encoder(max_images=8), "max_images of the encoder is 8 and must be at least 32"),
        (
            {"import_batch_bytes": 32 * MIB},
            image_store(max_message_bytes=17 * MIB),
            "max_message_bytes of the imagestore is 17,825,792 and must be at least 34,603,008",
        ),
        (
            {"import_batch_bytes": 32 * MIB},
            encoder(max_request_bytes=20 * MIB),
            "max_request_bytes of the encoder is 20,971,520 and must be at least 34,603,008",
        ),
        ({}, retriever(max_request_bytes=MIB), "max_request_bytes of the retriever is 1,048,576"),
        ({}, retriever(max_fields_bytes=MIB), "max_fields_bytes of the retriever is 1,048,576"),
        (
            {},
            retriever(max_message_bytes=128 * MIB),
            "max_message_bytes of the gateway is 67,108,864 and must be at least 134,217,728",
        ),
    ],
)
def test_what_does_not_agree_is_named(gateway: dict[str, Any], upstream: Description, said: str) -> None:
    [warning] = limit_warnings(GatewaySettings(**gateway), upstream)
    assert said in warning


def test_a_service_that_does_not_say_its_limits_is_not_warned_of() -> None:
    silent: list[Description] = [
        encoder_pb2.GetModelResponse(),
        imagestore_pb2.GetBlobStoreResponse(),
        retriever_pb2.GetVectorStoreResponse(messages=types_pb2.MessageLimits()),
    ]
    for upstream in silent:
        assert limit_warnings(GatewaySettings(), upstream) == []


@pytest.mark.parametrize("kind", [GatewaySettings, EncoderSettings, ImageStoreSettings])
def test_a_service_whose_messages_do_not_take_its_images_does_not_start(kind: Callable[..., ServerSettings]) -> None:
    with pytest.raises(ValidationError, match="max_request_bytes must be at least 10,485,760, for max_image_bytes is"):
        kind(max_image_bytes=9 * MIB, max_request_bytes=10 * MIB - 1)
    kind(max_image_bytes=9 * MIB, max_request_bytes=10 * MIB)


async def test_a_disagreement_is_logged_once_and_an_upstream_that_is_down_is_asked_again() -> None:
    answers: dict[str, Any] = {"encoder": encoder(max_images=8), "imagestore": None, "retriever": retriever()}

    def asking(name: str) -> Any:
        async def ask() -> Any:
            if answers[name] is None:
                raise UpstreamUnavailable(name, "it does not answer")
            return answers[name]

        return ask

    def client(name: str, method: str) -> SimpleNamespace:
        return SimpleNamespace(upstream=SimpleNamespace(address=name), **{method: asking(name)})

    clients = SimpleNamespace(
        encoders=SimpleNamespace(all=[client("encoder", "get_model")]),
        retriever=client("retriever", "get_vector_store"),
        imagestore=client("imagestore", "get_blob_store"),
    )
    watch = LimitsWatch(cast(Clients, clients), GatewaySettings())

    async def looked() -> tuple[bool, list[tuple[str, str]]]:
        """Whether all answered, and what was logged: address and setting."""
        with capture_logs() as logs:
            answered = await watch.look()
        return answered, [(log["address"], log["problem"].split()[0]) for log in logs]

    small = image_store(max_image_bytes=MIB)
    assert await looked() == (False, [("encoder", "max_images")])
    answers["imagestore"] = small
    assert await looked() == (True, [("imagestore", "max_image_bytes")])
    answers["imagestore"] = None
    assert await looked() == (False, [])
    answers["imagestore"] = small
    assert await looked() == (True, [])
    answers["imagestore"] = image_store()
    assert await looked() == (True, [])
    answers["imagestore"] = small
    assert await looked() == (True, [("imagestore", "max_image_bytes")])
    await watch.close()


async def test_the_image_store_is_asked_for_any_number_of_ids() -> None:
    asked: list[int] = []

    async def get_blobs(request: imagestore_pb2.GetBlobsRequest, **options: Any) -> imagestore_pb2.GetBlobsResponse:
        asked.append(len(request.image_ids))
        infos = [types_pb2.ImageInfo(image_id=image_id) for image_id in request.image_ids]
        return imagestore_pb2.GetBlobsResponse(blobs=[imagestore_pb2.Blob(info=info) for info in infos])

    client = ImageStoreClient(GatewaySettings())
    client._stub = SimpleNamespace(GetBlobs=get_blobs)  # type: ignore[assignment]
    ids = [f"{number:04}" for number in range(2 * MAX_IDS + 1)]
    blobs = await client.get_blobs("c", ids, creation_id="")
    assert [blob.info.image_id for blob in blobs] == ids
    assert asked == [MAX_IDS, MAX_IDS, 1]
    assert await client.get_blobs("c", [], creation_id="") == []
    await client.upstream.close()
