"""Collections of another precision or of an older version are used with a note, or refused if they are strict."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import grpc
import pytest

from protos import admin_pb2, encoder_pb2, encoder_pb2_grpc, errors_pb2, retriever_pb2, retriever_pb2_grpc, types_pb2
from protos import search_pb2 as pb
from tests.support.images import drawn, encoded
from tests.support.system import CALL_SECONDS, System, refusal
from tests.system.test_operating import eventually

IMAGES = {"a": encoded(drawn()), "b": encoded(drawn(90, 90))}


@pytest.fixture
def model(system: System) -> encoder_pb2.GetModelResponse:
    with grpc.insecure_channel(f"127.0.0.1:{system.port + 1}") as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        return stub.GetModel(encoder_pb2.GetModelRequest(), timeout=CALL_SECONDS)


@pytest.fixture(params=[False, True], ids=["lax", "strict"])
def other(request: pytest.FixtureRequest, system: System, model: encoder_pb2.GetModelResponse) -> Iterator[str]:
    """A collection that an encoder of the previous version made in f16."""
    name = f"t{uuid.uuid4().hex[:12]}"
    made = types_pb2.ModelFingerprint()
    made.CopyFrom(model.model)
    made.preprocessing_version = 1
    with grpc.insecure_channel(f"127.0.0.1:{system.port + 2}") as channel:
        retriever_pb2_grpc.RetrieverServiceStub(channel).CreateVectorCollection(
            retriever_pb2.CreateVectorCollectionRequest(
                collection=name, model=made, precision="f16", strict_precision=request.param
            ),
            timeout=CALL_SECONDS,
        )
    yield name
    system.drop(name)


def test_a_collection_remembers_what_its_encoder_measured(
    system: System, collection: str, model: encoder_pb2.GetModelResponse
) -> None:
    assert model.precision == "f32", "the only one that every processor has"
    assert model.fidelity.texts.least_cosine > 0.9999
    assert model.fidelity.images.least_cosine > 0.9999
    request = pb.GetCollectionRequest(collection=collection)
    found = system.client.collections.GetCollection(request, timeout=CALL_SECONDS).collection
    assert (found.precision, found.strict_precision, found.fidelity) == ("f32", False, model.fidelity)
    status = system.client.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_SECONDS)
    [encoder] = [each for each in status.services if each.name == "encoder"]
    assert (encoder.precision, encoder.fidelity) == ("f32", model.fidelity)
    assert "images 1.00000" in system.cli("status")
    assert {tuple(each.notes) for each in system.add(collection, IMAGES).values()} == {()}
    assert not system.search(collection, "红色", consistency=types_pb2.CONSISTENCY_STRONG).notes


def test_another_precision_is_noted_or_refused(system: System, other: str, request: pytest.FixtureRequest) -> None:
    outcomes = system.add(other, IMAGES)
    if "strict" not in request.node.callspec.id:
        assert {tuple(each.notes) for each in outcomes.values()} == {(pb.NOTE_PRECISION_MISMATCH,)}
        # Existing vectors are not computed again, as soon as a Milvus server shows them.
        eventually(lambda: {tuple(each.notes) for each in system.add(other, IMAGES).values()} == {()})
        found = system.search(other, "“红色”", consistency=types_pb2.CONSISTENCY_STRONG)
        assert len(found.hits) == 2
        assert list(found.notes) == [pb.NOTE_PRECISION_MISMATCH]
        assert "in another precision" in system.cli("search", "红色", "--collection", other)
        return
    assert {each.error.reason for each in outcomes.values()} == {errors_pb2.ERROR_REASON_PRECISION_MISMATCH}
    with pytest.raises(grpc.RpcError) as raised:
        system.search(other, "红色")
    refused = refusal(raised.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PRECISION_MISMATCH")
    assert refused.metadata == {"collection_precision": "f16", "request_precision": "f32"}
    listed = system.client.images.ListImages(pb.ListImagesRequest(collection=other), timeout=CALL_SECONDS)
    assert not listed.images, "it is refused before the bytes are stored"
