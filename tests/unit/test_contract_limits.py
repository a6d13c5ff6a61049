"""The numbers in the contract's comments, and the limits that the services hold."""

from __future__ import annotations

import re
from pathlib import Path

from services.common import limits
from services.common.ids import COLLECTION_PATTERN
from services.common.limits import (
    CHUNK_BYTES,
    DEFAULT_PAGE_SIZE,
    DEFAULT_TOP_K,
    MAX_ATTRIBUTE_NAME_BYTES,
    MAX_ATTRIBUTES_BYTES,
    MAX_ATTRIBUTES_DEPTH,
    MAX_BLOBS,
    MAX_DESCRIPTION_CHARS,
    MAX_DIM,
    MAX_FILTER_BYTES,
    MAX_FILTER_CONDITIONS,
    MAX_FILTER_DEPTH,
    MAX_FILTER_TEXT_BYTES,
    MAX_FILTER_VALUES,
    MAX_HIT_PARTS,
    MAX_IDS,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_ID_BYTES,
    MAX_IMAGE_PIXELS,
    MAX_IMAGES,
    MAX_MEDIA_TYPE_CHARS,
    MAX_MODEL_NAME_CHARS,
    MAX_PAGE_SIZE,
    MAX_QUERIES,
    MAX_RECORDS,
    MAX_TEXT_CHARS,
    MAX_TEXTS,
    MAX_TOP_K,
    MAX_VECTOR_TOP_K,
    MAX_WRITE_CHUNK_BYTES,
)
from services.retriever.service import BUILD_PARAMETERS, SEARCH_PARAMETERS

PROTOS = Path(__file__).parents[2] / "protos"
UNITS = {"KiB": limits.KIB, "MiB": limits.MIB, "million": 1_000_000}
BEFORE = r"(?:at most|up to|\d to|top_k to|means|default|conditions,|values to equal, and|(?<=MiB) and)"
NUMBER = re.compile(BEFORE + r" (?P<number>\d[\d,.]*)(?!\^)(?: (?P<unit>KiB|MiB|million))?", re.IGNORECASE)
FIELD = re.compile(r"(?:repeated |optional )?[\w.]+ (\w+) = \d+;")
PAGE = [MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE]
ATTRIBUTES = [MAX_ATTRIBUTES_BYTES, MAX_ATTRIBUTES_DEPTH]
# What the comment of each field, or of a whole message, must say.
EXPECTED = {
    "BatchSearchRequest.queries": [MAX_QUERIES],
    "BatchSearchRequest.top_k": [MAX_TOP_K, DEFAULT_TOP_K],
    "BlobUpload.attributes": ATTRIBUTES,
    "BlobUpload.data": [MAX_IMAGE_BYTES],
    "BlobUpload.image_id": [MAX_IMAGE_ID_BYTES],
    "BlobUpload.media_type": [MAX_MEDIA_TYPE_CHARS],
    "Collection.description": [MAX_DESCRIPTION_CHARS],
    "CompareTextsRequest.texts": [MAX_TEXTS],
    "CreateCollectionRequest.description": [MAX_DESCRIPTION_CHARS],
    "CreateVectorCollectionRequest.description": [MAX_DESCRIPTION_CHARS],
    "DeleteBlobsRequest.image_ids": [MAX_IDS],
    "DeleteVectorsRequest.image_ids": [MAX_IDS],
    "EncodeImagesRequest.images": [MAX_IMAGES, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS],
    "EncodeTextsRequest.texts": [MAX_TEXTS, MAX_TEXT_CHARS],
    "EqualsCondition.attribute": [MAX_ATTRIBUTE_NAME_BYTES],
    "ExistsCondition.attribute": [MAX_ATTRIBUTE_NAME_BYTES],
    "Filter": [MAX_FILTER_DEPTH, MAX_FILTER_CONDITIONS, MAX_FILTER_VALUES, MAX_FILTER_BYTES],
    "FilterValue.string_value": [MAX_FILTER_TEXT_BYTES],
    "GetBlobsRequest.image_ids": [MAX_IDS],
    "GetImageDetailsRequest.image_ids": [MAX_IDS],
    "GetImageResponse.chunk": [CHUNK_BYTES],
    "GetVectorsRequest.image_ids": [MAX_IDS],
    "GroupBy.attribute": [MAX_ATTRIBUTE_NAME_BYTES],
    "ImageIdList.image_ids": [MAX_IDS],
    "ImageInfo.image_id": [MAX_IMAGE_ID_BYTES],
    "ImageUpload.attributes": ATTRIBUTES,
    "ImageUpload.data": [MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS],
    "ImageUpload.image_id": [MAX_IMAGE_ID_BYTES],
    "IndexSpec.ef_construction": [*BUILD_PARAMETERS["HNSW"]["ef_construction"][3:0:-2]],
    "IndexSpec.m": [*BUILD_PARAMETERS["HNSW"]["m"][3:0:-2]],
    "IndexSpec.nlist": [*BUILD_PARAMETERS["IVF_FLAT"]["nlist"][3:0:-2]],
    "ListBlobsRequest.page_size": PAGE,
    "ListCollectionsRequest.page_size": PAGE,
    "ListImagesRequest.page_size": PAGE,
    "ListVectorCollectionsRequest.page_size": PAGE,
    "ListVectorsRequest.page_size": PAGE,
    "ModelFingerprint.dim": [MAX_DIM],
    "ModelFingerprint.name": [MAX_MODEL_NAME_CHARS],
    "OneOfCondition.attribute": [MAX_ATTRIBUTE_NAME_BYTES],
    "OneOfCondition.values": [MAX_FILTER_VALUES],
    "PutBlobsRequest.blobs": [MAX_BLOBS],
    "Query.text": [MAX_TEXT_CHARS],
    "RangeCondition.attribute": [MAX_ATTRIBUTE_NAME_BYTES],
    "ReadBlobResponse.chunk": [CHUNK_BYTES],
    "ScoreTextsRequest.texts": [MAX_TEXTS, MAX_TEXT_CHARS],
    "SearchParameters.ef": [SEARCH_PARAMETERS["ef"]],
    "SearchParameters.search_list": [SEARCH_PARAMETERS["search_list"]],
    "SearchRequest.include": [MAX_HIT_PARTS],
    "SearchRequest.top_k": [MAX_TOP_K, DEFAULT_TOP_K],
    "SearchVectorsRequest.queries": [MAX_QUERIES],
    "SearchVectorsRequest.top_k": [MAX_VECTOR_TOP_K],
    "UpsertVectorsRequest.records": [MAX_RECORDS],
    "VectorCollection.description": [MAX_DESCRIPTION_CHARS],
    "VectorRecord.attributes": ATTRIBUTES,
    "WriteBlobRequest.chunk": [MAX_WRITE_CHUNK_BYTES],
}
# Limits that one place alone knows, beside the comment.
OF_ONE_PLACE = {
    "GroupBy.size",
    "QueryMixture.terms",
    "SearchParameters.nprobe",
    "QueryTerm.weight",
    "VerifyIndexRequest.k",
    "VerifyIndexRequest.samples",
}


def numbers(comment: str) -> list[float]:
    """The upper limits and the defaults that a comment names, in order. 0 and 1 say nothing."""
    found = [
        float(match["number"].rstrip(",.").replace(",", "")) * UNITS.get(match["unit"], 1)
        for match in NUMBER.finditer(comment)
    ]
    return [number for number in found if number > 1]


def limits_in_comments() -> dict[str, list[float]]:
    """By field, as Message.field, or by message."""
    named: dict[str, list[float]] = {}
    for path in sorted(PROTOS.glob("*.proto")):
        comment, blocks = "", list[str]()
        for line in map(str.strip, path.read_text(encoding="utf-8").splitlines()):
            if line.startswith("//"):
                comment += line.removeprefix("//")
                continue
            place = ""
            if match := re.fullmatch(r"(message|enum|oneof|service) (\w+) \{", line):
                blocks.append("" if match[1] == "oneof" else match[2])
                place = match[2]
            elif line == "}":
                blocks.pop()
            elif match := FIELD.match(line):
                place = ".".join([*filter(None, blocks), match[1]])
            if place and numbers(comment):
                named[place] = numbers(comment)
            comment = ""
    return named


def test_the_contract_says_the_limits_that_are_held() -> None:
    said = limits_in_comments()
    known = {place: said[place] for place in said if place not in OF_ONE_PLACE}
    assert known == EXPECTED
    assert said.keys() >= OF_ONE_PLACE


def test_the_collection_pattern_of_the_contract_is_the_one_that_is_held() -> None:
    for path in PROTOS.glob("*.proto"):
        for pattern in re.findall(r"Id: `(.*)`\.", path.read_text(encoding="utf-8")):
            assert pattern == COLLECTION_PATTERN.pattern, path
