"""What a retriever asks of the connected Milvus before it serves: to compute what this service relies on."""

from __future__ import annotations

import re
import secrets
import time

import numpy as np

from services.retriever.backend import VectorBackend
from services.retriever.records import Consistency, Index, Metric, Record

# A capital letter, which no id of a collection has, and when it was made, in seconds since 1970.
_NAME = re.compile(r"SelfTest_([0-9a-f]{8})_[0-9a-f]{8}")
# A test that takes longer was killed with its retriever.
LEFT_BEHIND_SECONDS = 600
_VECTORS = {"same": [1.0, 0.0], "oblique": [0.6, 0.8], "opposite": [-1.0, 0.0]}
_EXPECTED = [("same", 1.0), ("oblique", 0.6), ("opposite", -1.0)]


class StoreDisagrees(Exception):
    """The connected Milvus does not compute what this service relies on."""


async def startup_check(backend: VectorBackend) -> None:
    """Three known vectors must come back with the scores that they have. Raises StoreDisagrees."""
    now = int(time.time())
    for other in await backend.collections():
        match = _NAME.fullmatch(other)
        if match and int(match.group(1), 16) < now - LEFT_BEHIND_SECONDS:
            await backend.drop(other)
    name = f"SelfTest_{now:08x}_{secrets.token_hex(4)}"
    await backend.create(name, 2, Metric.INNER_PRODUCT, Index("FLAT"), {})
    try:
        await backend.upsert(name, [Record(key, np.array(vector, np.float32), {}) for key, vector in _VECTORS.items()])
        [hits] = await backend.search(
            name,
            [np.array(_VECTORS["same"], np.float32)],
            len(_VECTORS),
            None,
            metric=Metric.INNER_PRODUCT,
            index_type="FLAT",
            parameters={},
            with_vectors=False,
            consistency=Consistency.STRONG,
        )
    finally:
        await backend.drop(name)
    scores = [(hit.image_id, round(hit.score, 4)) for hit in hits]
    if scores != _EXPECTED:
        raise StoreDisagrees(f"inner products of known vectors came back as {scores}")
