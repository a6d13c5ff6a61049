"""The errors of the services. Each class has its status code and reason.

    WentuError
      InvalidField            INVALID_ARGUMENT     INVALID_FIELD
        UnreadableImage       INVALID_ARGUMENT     UNREADABLE_IMAGE
        ImageTooLarge         INVALID_ARGUMENT     IMAGE_TOO_LARGE
        ChecksumMismatch      INVALID_ARGUMENT     CHECKSUM_MISMATCH
      UnreadableRequest       INVALID_ARGUMENT     INVALID_FIELD
      CollectionNotFound      NOT_FOUND            COLLECTION_NOT_FOUND
      ImageNotFound           NOT_FOUND            IMAGE_NOT_FOUND
      CollectionExists        ALREADY_EXISTS       COLLECTION_EXISTS
      ImageExists             ALREADY_EXISTS       IMAGE_EXISTS
      ModelMismatch           FAILED_PRECONDITION  MODEL_MISMATCH
      PrecisionMismatch       FAILED_PRECONDITION  PRECISION_MISMATCH
      WriteUnderWay           FAILED_PRECONDITION  WRITE_UNDER_WAY
      NotImplementedYet             UNIMPLEMENTED        UNSUPPORTED
      Overloaded              UNAVAILABLE          OVERLOADED
      UpstreamUnavailable   UNAVAILABLE          DEPENDENCY_UNAVAILABLE
      ShuttingDown            UNAVAILABLE          SHUTTING_DOWN
      IdleCall                ABORTED              IDLE
      DeadlineExceeded        DEADLINE_EXCEEDED    DEADLINE_EXCEEDED
      AnswerTooLarge          RESOURCE_EXHAUSTED   ANSWER_TOO_LARGE
      InternalError           INTERNAL             INTERNAL
      UnreadableAnswer        INTERNAL             INTERNAL

Domain code raises them. Only interceptors.py turns them into a status. wire_errors.py encodes them, and decodes the
error of another service into the same class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import cache


class Code(IntEnum):
    """The codes of google.rpc.Code that the services use. Their numbers equal gRPC's."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class WentuError(Exception):
    """Base class: a status code, a reason of protos/errors.proto, a message for people, and metadata for programs."""

    code = Code.INTERNAL
    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds

    def renamed(self, names: Mapping[str, str]) -> WentuError:
        """The same error with the field's name as this service's caller knows it.

        `names`: from the upstream's names to this service's.
        """
        if self.field not in names:
            return self
        field = names[self.field]
        return rebuilt(
            self.code,
            self.reason,
            self.message.replace(self.field, field, 1),
            field=field,
            metadata=self.metadata,
            retry_after_seconds=self.retry_after_seconds,
        )


class InvalidField(WentuError):
    """A field of the request is missing, malformed or beyond its limit."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", field=field)

    @property
    def problem(self) -> str:
        """The message without the field's name."""
        return self.message.removeprefix(f"{self.field}: ")


class UnreadableImage(InvalidField):
    reason = "UNREADABLE_IMAGE"


class ImageTooLarge(InvalidField):
    reason = "IMAGE_TOO_LARGE"


class ChecksumMismatch(InvalidField):
    reason = "CHECKSUM_MISMATCH"


class UnreadableRequest(WentuError):
    """A request message that cannot be accepted as a whole, so that no field can be named."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the request {problem}")


class CollectionNotFound(WentuError):
    code = Code.NOT_FOUND
    reason = "COLLECTION_NOT_FOUND"

    def __init__(self, collection: str) -> None:
        super().__init__(f"there is no collection {collection!r}", metadata={"collection": collection})


class ImageNotFound(WentuError):
    code = Code.NOT_FOUND
    reason = "IMAGE_NOT_FOUND"

    def __init__(self, collection: str, image_id: str) -> None:
        super().__init__(
            f"collection {collection!r} has no image {image_id!r}",
            metadata={"collection": collection, "image_id": image_id},
        )


class CollectionExists(WentuError):
    code = Code.ALREADY_EXISTS
    reason = "COLLECTION_EXISTS"

    def __init__(self, collection: str) -> None:
        super().__init__(f"there is already a collection {collection!r}", metadata={"collection": collection})


class ImageExists(WentuError):
    code = Code.ALREADY_EXISTS
    reason = "IMAGE_EXISTS"

    def __init__(self, collection: str, image_id: str) -> None:
        super().__init__(
            f"collection {collection!r} already has an image {image_id!r}",
            metadata={"collection": collection, "image_id": image_id},
        )


class ModelMismatch(WentuError):
    """The vectors were made by another model than the collection's. Both models are described in words."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_MISMATCH"

    def __init__(self, collection: str, collection_model: str, request_model: str) -> None:
        super().__init__(
            f"collection {collection!r} was built with {collection_model}, and this is {request_model}",
            metadata={"collection_model": collection_model, "request_model": request_model},
        )


class PrecisionMismatch(WentuError):
    """The vectors were computed in another precision than the collection's, and the collection is strict."""

    code = Code.FAILED_PRECONDITION
    reason = "PRECISION_MISMATCH"

    def __init__(self, collection: str, collection_precision: str, request_precision: str) -> None:
        super().__init__(
            f"collection {collection!r} takes vectors in {collection_precision} alone, and these are in "
            f"{request_precision}: start the encoder with --precision {collection_precision}",
            metadata={"collection_precision": collection_precision, "request_precision": request_precision},
        )


class WriteUnderWay(WentuError):
    code = Code.FAILED_PRECONDITION
    reason = "WRITE_UNDER_WAY"


class NotImplementedYet(WentuError):
    """The contract has the feature, but this version does not implement it."""

    code = Code.UNIMPLEMENTED
    reason = "UNSUPPORTED"

    def __init__(self, feature: str) -> None:
        super().__init__(f"{feature} is not implemented in this version", metadata={"feature": feature})


class Overloaded(WentuError):
    code = Code.UNAVAILABLE
    reason = "OVERLOADED"

    def __init__(self, message: str, retry_after_seconds: float = 0.2) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class UpstreamUnavailable(WentuError):
    code = Code.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"

    def __init__(self, dependency: str, problem: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(
            f"{dependency} is unavailable: {problem}",
            metadata={"dependency": dependency},
            retry_after_seconds=retry_after_seconds,
        )


class ShuttingDown(WentuError):
    code = Code.UNAVAILABLE
    reason = "SHUTTING_DOWN"

    def __init__(self) -> None:
        super().__init__("the service is shutting down", retry_after_seconds=1.0)


class IdleCall(WentuError):
    """The caller did not send its next message, or did not read an answer, for too long."""

    code = Code.ABORTED
    reason = "IDLE"

    def __init__(self, what: str, idle_seconds: float) -> None:
        super().__init__(f"the caller {what} for {idle_seconds:g} s", metadata={"idle_seconds": f"{idle_seconds:g}"})


class DeadlineExceeded(WentuError):
    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class AnswerTooLarge(WentuError):
    """The answer does not fit into one message. The caller must ask for less at once."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "ANSWER_TOO_LARGE"


class InternalError(WentuError):
    """A defect of the service. The message is fixed, so that no internals reach a caller."""

    def __init__(self) -> None:
        super().__init__("internal error; the service's log has it under the request id")


class UnreadableAnswer(WentuError):
    """The answer of another service cannot be parsed."""

    code = Code.INTERNAL
    reason = "INTERNAL"

    def __init__(self, upstream: str, method: str) -> None:
        super().__init__(f"{upstream} answered {method} with what cannot be parsed", metadata={"dependency": upstream})


def rebuilt(
    code: Code,
    reason: str,
    message: str,
    *,
    field: str = "",
    metadata: Mapping[str, str] | None = None,
    retry_after_seconds: float | None = None,
) -> WentuError:
    """The error of another service as an object of the class that has its reason.

    A reason of a newer version has no class. It becomes a WentuError with the same code and reason.
    """
    kind = _kinds().get(reason, WentuError)
    error = kind.__new__(kind)
    WentuError.__init__(error, message, field=field, metadata=metadata, retry_after_seconds=retry_after_seconds)
    error.code, error.reason = code, reason
    return error


@cache
def _kinds() -> dict[str, type[WentuError]]:
    kinds: dict[str, type[WentuError]] = {}
    for kind in _subclasses(WentuError):
        kinds.setdefault(kind.reason, kind)  # of several with one reason, the first stands for it
    return kinds


def _subclasses(kind: type[WentuError]) -> Iterator[type[WentuError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
