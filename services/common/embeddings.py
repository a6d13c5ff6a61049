"""Vectors on the wire."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protos import types_pb2

_VALUES_TAG = bytes([types_pb2.Embedding.DESCRIPTOR.fields_by_name["values"].number << 3 | 2])


def to_embedding(vector: npt.NDArray[np.float32]) -> types_pb2.Embedding:
    """vector [dim] as a message.

    Parsed from its wire form, a packed field of little-endian floats, and not built from a list: that takes a Python
    object for each value, and most of the time that answering a text takes beside gRPC.
    """
    values = np.asarray(vector, dtype="<f4").tobytes()
    length, size = b"", len(values)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return types_pb2.Embedding.FromString(_VALUES_TAG + length + bytes([size]) + values)
