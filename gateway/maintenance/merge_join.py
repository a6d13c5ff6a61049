"""Joins the pages of both stores in the order of ids, with one page of each in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

from gateway.upstreams.clients import Clients
from protos import imagestore_pb2, retriever_pb2, types_pb2
from services.common.limits import MAX_PAGE_SIZE

Item = TypeVar("Item")
Left = TypeVar("Left")
Right = TypeVar("Right")


class _Ahead(Generic[Item]):
    """Items of pages, with a view of the next item. Their ids ascend by bytes."""

    def __init__(self, page: Callable[[str], Awaitable[tuple[Iterable[Item], str]]]) -> None:
        self._page = page
        self._items: list[Item] = []
        self._token: str | None = ""

    async def key(self) -> bytes | None:
        """The id of the next item, or None after the last one."""
        while not self._items and self._token is not None:
            items, token = await self._page(self._token)
            self._items, self._token = list(items)[::-1], token or None
        return _key(self._items[-1]) if self._items else None

    def take(self) -> Item:
        return self._items.pop()


async def merge_join(
    left: Callable[[str], Awaitable[tuple[Iterable[Left], str]]],
    right: Callable[[str], Awaitable[tuple[Iterable[Right], str]]],
) -> AsyncIterator[tuple[str, Left | None, Right | None]]:
    """Each id with its item of both sides, or None. A side returns the page of a token, and the next page's token."""
    lefts, rights = _Ahead(left), _Ahead(right)
    while keys := [key for key in (await lefts.key(), await rights.key()) if key is not None]:
        least = min(keys)
        mine = lefts.take() if await lefts.key() == least else None
        theirs = rights.take() if await rights.key() == least else None
        yield least.decode(), mine, theirs


def blobs_of(
    clients: Clients, collection: str, creation_id: str
) -> Callable[[str], Awaitable[tuple[Iterable[imagestore_pb2.Blob], str]]]:
    """Pages of the image store's infos with attributes."""

    async def page(token: str) -> tuple[Iterable[imagestore_pb2.Blob], str]:
        found = await clients.imagestore.list_blobs(collection, MAX_PAGE_SIZE, token, creation_id=creation_id)
        return found.blobs, found.next_page_token

    return page


def vectors_of(
    clients: Clients, collection: str, *, embeddings: bool = False, rebuild: bool = False
) -> Callable[[str], Awaitable[tuple[Iterable[retriever_pb2.VectorRecord], str]]]:
    """Pages of vectors with strong consistency, for which a vector store may take 0.2 s per page."""

    async def page(token: str) -> tuple[Iterable[retriever_pb2.VectorRecord], str]:
        found = await clients.retriever.list_vectors(
            retriever_pb2.ListVectorsRequest(
                collection=collection,
                page_size=MAX_PAGE_SIZE,
                page_token=token,
                include_embeddings=embeddings,
                consistency=types_pb2.CONSISTENCY_STRONG,
                rebuild=rebuild,
            )
        )
        return found.records, found.next_page_token

    return page


def _key(item: Any) -> bytes:
    return str(item.info.image_id if isinstance(item, imagestore_pb2.Blob) else item.image_id).encode()
