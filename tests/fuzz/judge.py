"""Decides whether an answer is acceptable. It names what no request may cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from protos import errors_pb2, types_pb2
from services.common.errors import Code
from tests.fuzz.attempts import Attempt
from tests.fuzz.calls import Outcome
from tests.fuzz.messages import is_map
from tests.support.system import Refusal

REASONS = frozenset(name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()[1:])
# A caller can never be the cause of these codes.
NEVER = frozenset({"UNKNOWN", "INTERNAL", "DATA_LOSS"})
MESSAGE_CHARS = 2_000
# gRPC itself refuses a message beyond the limit of the transport. No code of ours runs then, so it has no details.
BEYOND_TRANSPORT = re.compile(r"SERVER: Received message larger than max \((\d+) vs\. (\d+)\)")
# Text that shows internals of the service.
INSIDE = re.compile(
    r"Traceback|File \"|\.py\b|\b0x[0-9a-f]{6}|[A-Za-z]+(?:Error|Exception)\b|site-packages|<class |<Message|_pb2"
    r"|(?:^|[\s'\"(])/(?:root|home|tmp|usr|var|work|data|opt|proc)/|milvus\.db|images\.db|grpc_status|pymilvus|sqlalchemy"
)


def judge(attempt: Attempt, outcome: Outcome) -> str:
    """What is wrong with the answer, in the same words for the same kind of fault. Empty if nothing is wrong."""
    if outcome.error is not None and not outcome.cut_by_client:
        problem = _of_status(attempt, outcome.error)
        if problem:
            return problem
    for item in (each for answer in outcome.answers for each in item_errors(answer)):
        problem = _of_item(attempt, item)
        if problem:
            return f"an item's error: {problem}"
    return ""


def _of_status(attempt: Attempt, error: Refusal) -> str:
    code = error.code.name
    if code in NEVER:
        return code
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    if error.code is grpc.StatusCode.UNAVAILABLE and not (error.reason == "OVERLOADED" and error.retry):
        return f"UNAVAILABLE {error.reason} for what the caller did"
    if code == "RESOURCE_EXHAUSTED" and (sizes := BEYOND_TRANSPORT.fullmatch(error.message)):
        return "" if int(sizes[1]) > int(sizes[2]) else "a message within the limit is refused as too large"
    if error.domain != "wentu" or error.reason not in REASONS:
        return f"{code} without ErrorInfo"
    # A message that cannot be parsed, or that is refused before it is, has no field that could be named.
    whole = error.message.startswith("the request ")
    if error.code is grpc.StatusCode.INVALID_ARGUMENT and not error.fields and not whole:
        return "INVALID_ARGUMENT that names no field"
    texts = (error.message, *error.metadata.values())
    return _of_texts(texts) or _of_valid(attempt, code, error.reason)


def _of_item(attempt: Attempt, item: types_pb2.ItemError) -> str:
    if item.code not in list(Code):
        return f"code {item.code}"
    code = Code(item.code).name
    reason = errors_pb2.ErrorReason.Name(item.reason).removeprefix("ERROR_REASON_")
    if code in NEVER:
        return code
    if code == "UNAVAILABLE" and reason != "OVERLOADED":
        return f"UNAVAILABLE {reason} for what the caller did"
    if reason not in REASONS:
        return f"{code} without a reason"
    return _of_texts((item.message,)) or _of_valid(attempt, code, reason)


def _of_texts(texts: tuple[str, ...]) -> str:
    for text in texts:
        if found := INSIDE.search(text):
            return f"the message tells of the service's inside: {found.group()}"
        if len(text) > MESSAGE_CHARS:
            return f"the message has more than {MESSAGE_CHARS:,} characters"
    return ""


def _of_valid(attempt: Attempt, code: str, reason: str) -> str:
    """A valid request may be refused if the method is not built yet, or for what was written before."""
    if not attempt.is_valid or code == "UNIMPLEMENTED" or reason in attempt.reasons:
        return ""
    return f"a valid request is refused: {code} {reason}"


def item_errors(message: Any) -> Iterator[types_pb2.ItemError]:
    """The errors of items anywhere in an answer."""
    if isinstance(message, types_pb2.ItemError):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None or is_map(field):
            continue
        for each in value if field.is_repeated else (value,):
            if isinstance(each, Message):
                yield from item_errors(each)
