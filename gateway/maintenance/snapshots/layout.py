"""The files of a snapshot.

settings.json          the first file: the collection's model, metric, index and description
vectors-00000.parquet  one row per image, for some thousand images: id, vector, attributes, checksum of the content
images-00000.tar       the bytes of those images, one member per content, named by its SHA-256
vectors-00001.parquet  and so on
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
from google.protobuf import json_format

from protos import retriever_pb2, types_pb2
from services.common.errors import InvalidField
from services.common.fingerprint import Fingerprint

VERSION = 1
SETTINGS = "settings.json"
VECTORS = re.compile(r"vectors-(\d{5,})\.parquet")
IMAGES = re.compile(r"images-(\d{5,})\.tar")
MEMBER = re.compile(r"([0-9a-f]{64})(\.[a-z0-9]+)?")


def schema(dim: int) -> pa.Schema:
    """`attributes` is JSON; `made_from` the SHA-256 of the bytes that the vector was made from."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("attributes", pa.string(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("media_type", pa.string(), nullable=False),
            pa.field("width", pa.uint32(), nullable=False),
            pa.field("height", pa.uint32(), nullable=False),
            pa.field("size_bytes", pa.uint64(), nullable=False),
            pa.field("create_time", pa.timestamp("ms", tz="UTC"), nullable=False),
            pa.field("made_from", pa.string(), nullable=False),
        ]
    )


def row(record: retriever_pb2.VectorRecord, info: types_pb2.ImageInfo) -> dict[str, Any]:
    return {
        "image_id": record.image_id,
        "embedding": record.embedding.values,
        "attributes": json_format.MessageToJson(record.attributes, indent=None, ensure_ascii=False),
        "sha256": info.sha256,
        "media_type": info.media_type,
        "width": info.width,
        "height": info.height,
        "size_bytes": info.size_bytes,
        "create_time": info.create_time.ToMilliseconds(),
        "made_from": record.content_sha256,
    }


def record(found: dict[str, Any]) -> retriever_pb2.VectorRecord:
    message = retriever_pb2.VectorRecord(image_id=found["image_id"], content_sha256=found["made_from"])
    message.embedding.values.extend(found["embedding"])
    json_format.Parse(found["attributes"], message.attributes)
    return message


def settings(collection: retriever_pb2.VectorCollection) -> dict[str, Any]:
    return {
        "version": VERSION,
        "collection": collection.collection,
        "model": Fingerprint.from_message(collection.model).to_json(),
        "metric": types_pb2.Metric.Name(collection.metric),
        "index": json_format.MessageToDict(collection.index, preserving_proto_field_name=True),
        "description": collection.description,
        "create_time": collection.create_time.ToJsonString(),
        "precision": collection.precision,
        "strict_precision": collection.strict_precision,
        "fidelity": json_format.MessageToDict(collection.fidelity, preserving_proto_field_name=True),
    }


def creation(collection: str, found: Any) -> retriever_pb2.CreateVectorCollectionRequest:
    """Parse settings.json. Raises InvalidField if it is not of this version."""
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise InvalidField("part.chunk", f"{SETTINGS} must be that of a snapshot of version {VERSION}")
    try:
        return retriever_pb2.CreateVectorCollectionRequest(
            collection=collection,
            model=Fingerprint(**found["model"]).to_message(),
            metric=types_pb2.Metric.Value(found["metric"]),
            index=json_format.ParseDict(found["index"], types_pb2.IndexSpec()),
            description=found["description"],
            precision=found.get("precision", ""),
            strict_precision=found.get("strict_precision", False),
            fidelity=json_format.ParseDict(found.get("fidelity", {}), types_pb2.ModelFidelity()),
        )
    except (KeyError, TypeError, ValueError, json_format.ParseError) as error:
        raise InvalidField("part.chunk", f"{SETTINGS} is damaged: {error}") from error
