"""The parameters of one search, as Milvus's indexes have them."""

from __future__ import annotations

from collections.abc import Mapping

# Finds 0.9915 of the ten nearest among a million, where 128 finds 0.9795 (bench/RESULTS.md).
DEFAULT_EF = 192


def search_parameters(index_type: str, given: Mapping[str, int], limit: int) -> dict[str, int]:
    """Those that the index has, with defaults that favour recall."""
    if index_type == "HNSW":
        return {"ef": max(given.get("ef", max(DEFAULT_EF, 2 * limit)), limit)}
    if index_type in ("IVF_FLAT", "IVF_SQ8"):
        return {"nprobe": given.get("nprobe", 16)}
    if index_type == "DISKANN":
        return {"search_list": max(given.get("search_list", 100), limit)}
    return {}
