"""The error codec: what one service raises is the same error in the service that called it."""

from __future__ import annotations

import ast
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from protos import errors_pb2, types_pb2
from services.common import errors
from services.common.errors import Code, InvalidField, WentuError
from services.common.wire_errors import from_item_error, from_rpc_error, grpc_status, item_error, trailing_metadata

RAISED = [
    errors.InvalidField("texts[3]", "must hold a word"),
    errors.UnreadableImage("image.data", "is not an image of a known format"),
    errors.ImageTooLarge("image.data", "has 9 bytes; the limit is 8"),
    errors.ChecksumMismatch("head.sha256", "is not that of the bytes that came"),
    errors.CollectionNotFound("c"),
    errors.ImageNotFound("c", "一"),
    errors.CollectionExists("c"),
    errors.ImageExists("c", "i"),
    errors.ModelMismatch("c", "this", "that"),
    errors.PrecisionMismatch("c", "f32", "bf16"),
    errors.WriteUnderWay("later"),
    errors.NotImplementedYet("it"),
    errors.Overloaded("full", 0.25),
    errors.UpstreamUnavailable("milvus", "its disk is full"),
    errors.ShuttingDown(),
    errors.IdleCall("sent nothing", 60),
    errors.DeadlineExceeded("retriever did not answer in time"),
    errors.AnswerTooLarge("too much"),
    errors.InternalError(),
]


# Of several classes with one reason, the first stands for it.
STAND_INS = [
    (errors.UnreadableRequest("is missing"), errors.InvalidField),
    (errors.UnreadableAnswer("retriever", "Search"), errors.InternalError),
]


def received(code: Code, trailing: list[tuple[str, str | bytes]], details: str = "") -> WentuError:
    """What the caller of a service makes of its answer."""
    error = aio.AioRpcError(grpc_status(code), aio.Metadata(), aio.Metadata(*trailing), details)
    return from_rpc_error(error, "retriever")


@pytest.mark.parametrize("raised", RAISED, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_type_across_services(raised: WentuError) -> None:
    got = received(raised.code, trailing_metadata(raised), raised.message)
    assert type(got) is type(raised)
    assert (got.code, got.reason, str(got)) == (raised.code, raised.reason, raised.message)
    assert (got.field, got.metadata) == (raised.field, raised.metadata)
    assert got.retry_after_seconds == raised.retry_after_seconds


@pytest.mark.parametrize("raised", RAISED, ids=lambda error: type(error).__name__)
def test_an_item_keeps_its_type_across_services(raised: WentuError) -> None:
    got = from_item_error(item_error(raised), "mine" if raised.field else "")
    assert type(got) is type(raised)
    assert (got.code, got.reason, got.field) == (raised.code, raised.reason, "mine" if raised.field else "")
    assert got.message == raised.message.replace(raised.field or "\0", "mine")


@pytest.mark.parametrize(("raised", "kind"), STAND_INS, ids=lambda each: getattr(each, "__name__", ""))
def test_an_error_that_shares_its_reason_keeps_what_it_says(raised: WentuError, kind: type[WentuError]) -> None:
    got = received(raised.code, trailing_metadata(raised), raised.message)
    assert type(got) is kind
    assert (got.code, got.reason, str(got), got.metadata) == (raised.code, raised.reason, str(raised), raised.metadata)


def test_no_class_of_errors_is_left_out_here() -> None:
    """A new class comes into RAISED, and its reason into protos/errors.proto."""
    classes = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, WentuError)}
    assert {type(each) for each in RAISED} | {type(each) for each, _ in STAND_INS} == classes - {WentuError}
    reasons = {"ERROR_REASON_" + each.reason for each in classes}
    # Nothing refuses a caller for who it is yet.
    assert set(errors_pb2.ErrorReason.keys()) - reasons == {"ERROR_REASON_UNSPECIFIED", "ERROR_REASON_NOT_PERMITTED"}
    assert reasons < set(errors_pb2.ErrorReason.keys())


def test_the_table_of_errors_is_right() -> None:
    """The tree in the docstring of errors.py, which is what a reader trusts."""
    assert errors.__doc__
    rows = [line.split() for line in errors.__doc__.splitlines() if line.startswith("      ")]
    for name, code, reason in rows:
        kind = getattr(errors, name)
        assert (kind.code.name, kind.reason) == (code, reason), name
    assert {name for name, *_ in rows} == {type(each).__name__ for each in [*RAISED, *(each for each, _ in STAND_INS)]}


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.2, 12.3456])
def test_the_advice_to_come_again_reaches_grpc_too(seconds: float) -> None:
    """RetryInfo is for people's programs, the pushback for gRPC's own retries."""
    metadata = dict(trailing_metadata(errors.Overloaded("full", seconds)))
    assert metadata["grpc-retry-pushback-ms"] == str(round(seconds * 1000))
    got = received(Code.UNAVAILABLE, [*metadata.items()])
    assert got.retry_after_seconds == pytest.approx(seconds, abs=0.0006)
    assert "grpc-retry-pushback-ms" not in dict(trailing_metadata(errors.InternalError()))


def test_details_of_others_are_not_ours() -> None:
    """A proxy's ErrorInfo with another domain tells nothing of our classes."""
    info = error_details_pb2.ErrorInfo(reason="COLLECTION_NOT_FOUND", domain="proxy.example")
    status = status_pb2.Status(code=5)
    status.details.add().Pack(info)
    got = received(Code.NOT_FOUND, [("grpc-status-details-bin", status.SerializeToString())], "no route")
    assert (type(got), got.code, got.message) == (WentuError, Code.NOT_FOUND, "no route")


def test_a_renamed_field_is_renamed_in_the_message_too() -> None:
    error = InvalidField("texts[0]", "must hold a word")
    renamed = error.renamed({"texts[0]": "query.text"})
    assert (type(renamed), renamed.field, str(renamed)) == (InvalidField, "query.text", "query.text: must hold a word")
    assert isinstance(renamed, InvalidField)
    assert renamed.problem == error.problem == "must hold a word"
    assert error.renamed({"other": "x"}) is error


def test_a_reason_of_a_newer_version_keeps_its_code_and_reason() -> None:
    newer = WentuError("what is that")
    newer.code, newer.reason = Code.ABORTED, "A_REASON_TO_COME"
    got = received(newer.code, trailing_metadata(newer), newer.message)
    assert (type(got), got.code, got.reason, got.message) == (WentuError, Code.ABORTED, newer.reason, newer.message)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAVAILABLE, errors.UpstreamUnavailable),
        (Code.INTERNAL, errors.UpstreamUnavailable),
        (Code.UNKNOWN, errors.UpstreamUnavailable),
        (Code.CANCELLED, errors.UpstreamUnavailable),
        (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
    ],
)
def test_trouble_without_details_names_the_upstream(code: Code, kind: type[WentuError]) -> None:
    got = received(code, [])
    assert isinstance(got, kind)
    assert "retriever" in got.message


@pytest.mark.parametrize("code", [Code.DATA_LOSS, Code.ABORTED, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED])
def test_a_refusal_without_details_keeps_its_code(code: Code) -> None:
    first = received(code, [], "no")
    again = received(first.code, trailing_metadata(first), first.message)
    for error in (first, again):
        assert (error.code, error.message) == (code, "no")
        assert error.reason == ("UNSUPPORTED" if code is Code.UNIMPLEMENTED else "UNSPECIFIED")


@pytest.mark.parametrize("code", [Code.DATA_LOSS, Code.ABORTED])
def test_a_code_keeps_its_meaning_through_the_gateway(code: Code) -> None:
    raised = WentuError("what happened", metadata={"a": "b"})
    raised.code = code
    error: WentuError = raised
    for _ in range(2):  # from the store's service to the gateway, and from there to the caller
        error = received(error.code, trailing_metadata(error), error.message)
    assert (error.code, error.reason, error.metadata) == (code, raised.reason, {"a": "b"})


def test_nobody_compares_reasons() -> None:
    """A caller that wants to know what went wrong asks for the class."""
    project = Path(__file__).parents[2]
    for folder in ("gateway", "services", "cli"):
        for path in (project / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    sides = [node.left, *node.comparators]
                    names = {side.attr for side in sides if isinstance(side, ast.Attribute)}
                    assert "reason" not in names, f"{path}:{node.lineno}"


def test_every_status_of_grpc_has_a_code() -> None:
    for status in grpc.StatusCode:
        if status is not grpc.StatusCode.OK:
            assert grpc_status(Code(status.value[0])) is status


def test_an_item_error_travels_as_a_message() -> None:
    message = item_error(errors.UnreadableImage("images[0]", "holds no bytes"))
    assert types_pb2.ItemError.FromString(message.SerializeToString()) == message
