"""The parameters of a search for each of Milvus's indexes."""

from __future__ import annotations

from collections.abc import Mapping

# recall@10 among a million vectors is 0.9915 with it, and 0.9795 with 128 (bench/RESULTS.md).
DEFAULT_EF = 192


def search_parameters(index_type: str, given: Mapping[str, int], limit: int) -> dict[str, int]:
    """The parameters that the index knows, with defaults that favour recall."""
    if index_type == "HNSW":
        return {"ef": max(given.get("ef", max(DEFAULT_EF, 2 * limit)), limit)}
    if index_type in ("IVF_FLAT", "IVF_SQ8"):
        return {"nprobe": given.get("nprobe", 16)}
    if index_type == "DISKANN":
        return {"search_list": max(given.get("search_list", 100), limit)}
    return {}
