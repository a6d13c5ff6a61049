"""Whether what the vector store says can be: an interruption leaves few pictures without a vector.

After a restart Milvus 2.3 was seen to answer for a while, even with strong consistency, as if a collection were empty.
What would be made from such an answer, without the attributes, would take the place of what is there.
"""

from __future__ import annotations

from services.common.errors import DependencyUnavailable

MANY = 100


def check_plausible(without_vector: int, pictures: int) -> None:
    """Raises DependencyUnavailable where most of the pictures seem to have no vector."""
    if without_vector >= MANY and 2 * without_vector > pictures:
        raise DependencyUnavailable(
            "retriever",
            f"{without_vector:,} of {pictures:,} pictures seem to have no vector: its store may still be loading them;"
            " nothing was changed. Where they are lost, import the pictures again",
        )
