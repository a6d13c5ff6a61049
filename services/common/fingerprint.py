"""The identity of a model. It is sent with every vector."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from protos import types_pb2
from services.common.errors import InvalidField
from services.common.ids import SHA256_PATTERN
from services.common.limits import MAX_DIM, MAX_MODEL_NAME_CHARS

# Preprocessing version -> the first version that makes the same vectors of images. Only vectors of images are stored,
# so a collection stays usable if only the preparation of texts changes.
IMAGES_AS_OF = {1: 1, 2: 1}

PRECISIONS = ("f32", "bf16", "f16")


def check_precision(value: str, field: str = "precision") -> str:
    """Empty passes too: unknown."""
    if value and value not in PRECISIONS:
        raise InvalidField(field, f"must be one of {', '.join(PRECISIONS)}, got {value[:80]!r}")
    return value


@dataclass(frozen=True)
class Fingerprint:
    """The model that made a vector. A dimension alone does not identify a model."""

    name: str
    dim: int
    checkpoint_sha256: str
    preprocessing_version: int

    def __str__(self) -> str:
        return (
            f"{self.name} (dim {self.dim}, checkpoint {self.checkpoint_sha256[:12]}, "
            f"preprocessing {self.preprocessing_version})"
        )

    @property
    def images_version(self) -> int:
        """The first version of the preprocessing that makes the same vectors of images."""
        return IMAGES_AS_OF.get(self.preprocessing_version, self.preprocessing_version)

    def fits(self, other: Fingerprint) -> bool:
        """Whether both models make the same vectors of images, so that their vectors can be compared."""
        return replace(self, preprocessing_version=self.images_version) == replace(
            other, preprocessing_version=other.images_version
        )

    def to_message(self) -> types_pb2.ModelFingerprint:
        return types_pb2.ModelFingerprint(**self.to_json())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: types_pb2.ModelFingerprint, field: str = "model") -> Fingerprint:
        """Raises InvalidField if a part is missing or malformed."""
        if not 1 <= len(message.name) <= MAX_MODEL_NAME_CHARS:
            raise InvalidField(f"{field}.name", f"must have 1 to {MAX_MODEL_NAME_CHARS} characters")
        if not 2 <= message.dim <= MAX_DIM:
            raise InvalidField(f"{field}.dim", f"must be 2 to {MAX_DIM:,}, got {message.dim:,}")
        if not SHA256_PATTERN.fullmatch(message.checkpoint_sha256):
            raise InvalidField(f"{field}.checkpoint_sha256", "must be 64 lower-case hexadecimal digits")
        return cls(message.name, message.dim, message.checkpoint_sha256, message.preprocessing_version)
