"""The error codec: what one service raises is the same error in the service that called it."""

from __future__ import annotations

import ast
from pathlib import Path

import grpc
import pytest
from grpc import aio

from protos import types_pb2
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
    errors.WriteUnderWay("later"),
    errors.NotImplementedYet("it"),
    errors.Overloaded("full", 0.25),
    errors.UpstreamUnavailable("milvus", "its disk is full"),
    errors.ShuttingDown(),
    errors.AnswerTooLarge("too much"),
    errors.InternalError(),
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
