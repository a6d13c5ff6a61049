"""Messages of many small fields are told from those of many bytes before they are parsed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from protos import encoder_pb2, imagestore_pb2, retriever_pb2, search_pb2, types_pb2
from services.common.limits import MIB
from services.common.message_cost import FIELD_BYTES, cost, shape_of

LIMIT = 2 * MIB


def of(message: Any) -> int:
    return cost(shape_of(message.DESCRIPTOR), message.SerializeToString(), LIMIT)


def wrapped(number: int, content: bytes) -> bytes:
    """A field with a length, of any content."""
    length, size = b"", len(content)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_bytes_of_images_texts_and_vectors_cost_next_to_nothing() -> None:
    data = bytes(5 * MIB)
    upload = types_pb2.ImageUpload(image_id="a", data=data)
    cheap = [
        search_pb2.AddImageRequest(collection="c", image=upload),
        search_pb2.AddImagesRequest(image=upload),
        search_pb2.ScoreTextsRequest(image=data, texts=["好" * 10_000] * 256),
        encoder_pb2.EncodeImagesRequest(images=[data] * 3),
        imagestore_pb2.PutBlobsRequest(collection="c", blobs=[imagestore_pb2.BlobUpload(image_id="a", data=data)]),
        retriever_pb2.SearchVectorsRequest(queries=[types_pb2.Embedding(values=[0.5] * 100_000)] * 3),
    ]
    for message in cheap:
        assert of(message) < 256 * (FIELD_BYTES + 8), message.DESCRIPTOR.full_name


def test_attributes_filters_and_what_is_unknown_cost_their_size() -> None:
    upload = types_pb2.ImageUpload(image_id="a", data=b"x" * 1000)
    upload.attributes.update({"text": "y" * 5000})
    assert 5000 < of(search_pb2.AddImagesRequest(image=upload)) < 5200
    equals = types_pb2.EqualsCondition(attribute="a", value=types_pb2.FilterValue(string_value="z" * 5000))
    assert 5000 < of(search_pb2.SearchRequest(filter=types_pb2.Filter(equals=equals))) < 5200
    assert cost(shape_of(search_pb2.SearchRequest.DESCRIPTOR), wrapped(15, bytes(5000)), LIMIT) > 5000
    group = bytes([15 << 3 | 3]) + bytes(5000)
    assert cost(shape_of(search_pb2.SearchRequest.DESCRIPTOR), group, LIMIT) > 5000


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (search_pb2.SearchRequest, wrapped(9, b"\x02" * 60_000_000)),  # `include` of 60 million entries
        (search_pb2.SearchRequest, bytes([9 << 3, 2]) * 15_000_000),
        (search_pb2.GetImageDetailsRequest, bytes([2 << 3 | 2, 0]) * 15_000_000),  # empty ids
        (search_pb2.SearchRequest, bytes([2 << 3 | 2, 0]) * 15_000_000),
        (search_pb2.SearchRequest, wrapped(2, wrapped(5, bytes([1 << 3 | 2, 0]) * 15_000_000))),
        (encoder_pb2.EncodeTextsRequest, bytes([1 << 3 | 2, 0]) * 15_000_000),
    ],
)
def test_millions_of_fields_are_seen_soon(kind: Any, raw: bytes) -> None:
    started = time.process_time()
    assert cost(shape_of(kind.DESCRIPTOR), raw, LIMIT) > LIMIT
    assert time.process_time() - started < 1


def test_damage_is_left_to_the_parser() -> None:
    shape = shape_of(search_pb2.SearchRequest.DESCRIPTOR)
    message = search_pb2.SearchRequest(collection="c", query=search_pb2.Query(text="猫" * 50)).SerializeToString()
    for end in range(len(message)):
        assert cost(shape, message[:end], LIMIT) <= len(message) * FIELD_BYTES
    assert cost(shape, b"\xff" * 100, LIMIT) >= FIELD_BYTES
