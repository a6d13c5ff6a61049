"""Encodes errors as google.rpc.Status with details and as ItemError, and decodes them."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from protos import errors_pb2, types_pb2
from services.common.errors import Code, DeadlineExceeded, UpstreamUnavailable, WentuError, rebuilt

DOMAIN = "wentu"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
_PREFIX = "ERROR_REASON_"
# Without ErrorInfo, these codes mean that the connection or the server failed, not that the request was wrong.
_TROUBLE = frozenset({Code.CANCELLED, Code.UNKNOWN, Code.INTERNAL, Code.UNAVAILABLE})


def reason_number(reason: str) -> errors_pb2.ErrorReason.ValueType:
    return errors_pb2.ErrorReason.Value(_PREFIX + reason)


def status_bytes(error: WentuError) -> bytes:
    """google.rpc.Status with ErrorInfo, with BadRequest if a field is wrong, and with RetryInfo if a retry may help."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=int(error.code), message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return bytes(status.SerializeToString())


def trailing_metadata(error: WentuError) -> list[tuple[str, str | bytes]]:
    metadata: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status_bytes(error))]
    if error.retry_after_seconds is not None:
        metadata.append((PUSHBACK_KEY, str(round(error.retry_after_seconds * 1000))))
    return metadata


def item_error(error: WentuError) -> types_pb2.ItemError:
    return types_pb2.ItemError(
        code=int(error.code), reason=reason_number(error.reason), message=error.message, field=error.field
    )


def from_item_error(item: types_pb2.ItemError, field: str = "") -> WentuError:
    """The error of an item, as the class of its reason. `field` is the caller's name of the wrong field."""
    reason = errors_pb2.ErrorReason.Name(item.reason).removeprefix(_PREFIX)
    error = rebuilt(Code(item.code), reason, item.message, field=item.field)
    return error.renamed({item.field: field}) if item.field and field else error


def _details(error: aio.AioRpcError) -> dict[str, Any]:
    """The details of a status, keyed by the last part of their type names."""
    found: dict[str, Any] = {}
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY:
            continue
        status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
        for packed in status.details:
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                if packed.Is(kind.DESCRIPTOR):
                    detail = kind()
                    packed.Unpack(detail)
                    found[kind.DESCRIPTOR.name] = detail
    return found


def from_rpc_error(error: aio.AioRpcError, dependency: str) -> WentuError:
    """The error of a failed call to another service, as an error for the caller of this service.

    An error of this project keeps its class, code, field, metadata and retry advice. Any other error becomes
    UpstreamUnavailable if the connection or the server failed, and keeps its code if the request was refused.
    """
    code = Code(error.code().value[0])
    details = _details(error)
    info, bad_request, retry = (details.get(name) for name in ("ErrorInfo", "BadRequest", "RetryInfo"))
    if code is Code.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{dependency} did not answer in time")
    if info is not None and info.domain == DOMAIN:
        return rebuilt(
            code,
            info.reason,
            error.details() or "",
            field=bad_request.field_violations[0].field if bad_request is not None else "",
            metadata=dict(info.metadata),
            retry_after_seconds=retry.retry_delay.ToMilliseconds() / 1000 if retry is not None else None,
        )
    if code in _TROUBLE:
        problem = "it does not answer" if code is Code.UNAVAILABLE else f"it failed with {error.code().name}"
        return UpstreamUnavailable(dependency, problem)
    return rebuilt(code, "UNSUPPORTED", error.details() or "", metadata={"dependency": dependency})


def grpc_status(code: Code) -> grpc.StatusCode:
    return _STATUSES[int(code)]


_STATUSES = {status.value[0]: status for status in grpc.StatusCode}
