"""A thin layer over pymilvus: threads, deadlines, errors and escaping. lite.py has what Lite needs beside it.

pymilvus's own `ids=` arguments and iterators put keys into expressions without escaping them, so this module writes
every expression itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
import structlog
from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus.client.types import LoadState

from services.common.calls import seconds_left
from services.common.channels import foreign_options
from services.common.errors import DeadlineExceeded, UpstreamUnavailable
from services.common.limits import MAX_IMAGE_ID_BYTES
from services.common.thread_pool import ThreadPool
from services.retriever.backend import NoSuchCollection, NotLoaded, Selection
from services.retriever.filters.conditions import Condition
from services.retriever.milvus.expressions import expression
from services.retriever.milvus.literals import ATTRIBUTES, KEY, VECTOR, after, both
from services.retriever.milvus.rows import fields, hit, record, row
from services.retriever.milvus.search_parameters import search_parameters
from services.retriever.records import Consistency, Hit, Index, Metric, Record, Vector
from services.retriever.settings import RetrieverSettings

log = structlog.get_logger()
Result = TypeVar("Result")

SETTINGS_PROPERTY = "wentu.settings"
NOT_FOUND_CODES = frozenset({100, 1600})  # collection, alias
NOT_LOADED_CODE = 101
# pymilvus prints every failed call with its stack; the errors raised here say what is needed.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


class Milvus:
    """One connection to a Milvus server, a VectorBackend.

    The values of Metric and Consistency, and the names of indexes and of their parameters, are Milvus's own.
    """

    kind = "milvus"
    evaluates_filters = True
    default_index = Index("HNSW", {"M": 16, "efConstruction": 200})
    max_hits = 16_384
    index_types = frozenset({"FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "DISKANN", "AUTOINDEX"})
    # Of queries in the order of their keys: a server keeps it anyhow.
    _ordered: Mapping[str, str] = {}

    def __init__(self, settings: RetrieverSettings) -> None:
        self._settings = settings
        self._timeout_seconds = settings.timeout_seconds
        self._client = self._connected(settings.milvus)
        self._workers = ThreadPool(settings.threads, "milvus")

    def _connected(self, uri: str) -> MilvusClient:
        return MilvusClient(
            uri,
            token=self._settings.milvus_token.get_secret_value(),
            db_name=self._settings.milvus_database,
            timeout=self._settings.timeout_seconds,
            grpc_options=foreign_options(self._settings.use_proxy),
        )

    async def call(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """`method` of the client on a thread, within the caller's deadline.

        Raises NoSuchCollection, NotLoaded, DeadlineExceeded, UpstreamUnavailable.
        """
        left = seconds_left()
        timeout = self._timeout_seconds if left is None else min(self._timeout_seconds, left)
        if timeout <= 0:
            raise DeadlineExceeded("the deadline passed before Milvus was asked")
        try:
            return await self._workers.run(method, *args, timeout=timeout, **kwargs)
        except MilvusException as error:
            if error.code in NOT_FOUND_CODES:
                raise NoSuchCollection(str(error)) from error
            if error.code == NOT_LOADED_CODE:
                raise NotLoaded(str(error)) from error
            log.warning("milvus", problem=str(error), code=error.code)
            if left is not None and (now := seconds_left()) is not None and now <= 0:
                raise DeadlineExceeded("milvus did not answer in time") from error
            raise UpstreamUnavailable("milvus", f"it answered with code {error.code}") from error
        except (grpc.RpcError, ConnectionError, ValueError) as error:
            log.warning("milvus", problem=str(error))
            raise UpstreamUnavailable("milvus", "it does not answer") from error

    async def version(self) -> str:
        return str(await self.call(self._client.get_server_version))

    async def check(self) -> None:
        """Passes if it answers."""
        await self.collections()

    async def collections(self) -> list[str]:
        return list(await self.call(self._client.list_collections))

    async def describe(self, name: str) -> tuple[str, dict[str, Any] | None]:
        """Physical name behind a name or an alias, and the settings kept with it."""
        found: Mapping[str, Any] = await self.call(self._client.describe_collection, name)
        text = found["properties"].get(SETTINGS_PROPERTY)
        return str(found["collection_name"]), json.loads(text) if text else None

    async def create(self, name: str, dim: int, metric: Metric, index: Index, settings: Mapping[str, Any]) -> None:
        """An empty, loaded collection."""
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=MAX_IMAGE_ID_BYTES)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dim)
        schema.add_field(ATTRIBUTES, DataType.JSON)
        indexes = self._client.prepare_index_params()
        indexes.add_index(VECTOR, index_type=index.type, metric_type=metric.value, params=dict(index.parameters))
        properties = {SETTINGS_PROPERTY: json.dumps(settings, ensure_ascii=False)}

        def create(timeout: float) -> None:
            self._client.create_collection(name, schema=schema, properties=properties, timeout=timeout)
            # Handed in with the schema, an index is waited for half a second, though there is nothing to build.
            self._client.create_index(name, indexes, sync=False, timeout=timeout)
            self._client.load_collection(name, timeout=timeout)

        await self.call(create)

    async def load(self, name: str) -> None:
        """Into memory. Raises UpstreamUnavailable where Milvus is at it, as it is for half a minute after a crash."""
        found: Mapping[str, Any] = await self.call(self._client.get_load_state, name)
        if found["state"] is LoadState.Loading:
            raise UpstreamUnavailable("milvus", "it is still loading the collection")
        await self.call(self._client.load_collection, name)

    async def drop(self, name: str) -> None:
        with contextlib.suppress(NoSuchCollection):
            await self.call(self._client.drop_collection, name)

    async def create_alias(self, name: str, alias: str) -> None:
        await self.call(self._client.create_alias, name, alias)

    async def move_alias(self, name: str, alias: str) -> None:
        await self.call(self._client.alter_alias, name, alias)

    async def drop_alias(self, alias: str) -> None:
        await self.call(self._client.drop_alias, alias)

    async def upsert(self, name: str, records: Sequence[Record]) -> None:
        await self.call(self._client.upsert, name, list(map(row, records)))

    async def delete(self, name: str, image_ids: Sequence[str]) -> None:
        await self.call(self._client.delete, name, filter=expression(image_ids))

    async def count(self, name: str, where: Condition | None, consistency: Consistency) -> int:
        [counted] = await self._query(name, expression(where), ["count(*)"], consistency)
        return int(counted["count(*)"])

    async def indexed(self, name: str) -> int:
        """Records that the index holds. Lite, whose index is always whole, does not say."""
        found: Mapping[str, Any] = await self.call(self._client.describe_index, name, VECTOR)
        return int(found.get("indexed_rows", 0))

    async def fetch(
        self, name: str, image_ids: Sequence[str], with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        rows = await self._query(name, expression(image_ids), fields(with_vectors), consistency)
        return [record(each, with_vectors) for each in rows]

    async def page(
        self, name: str, last: str, size: int, where: Condition | None, with_vectors: bool, consistency: Consistency
    ) -> list[Record]:
        """The records with the `size` smallest ids after `last`, in the order of the ids' bytes."""
        chosen = both(after(last), expression(where))
        rows = await self._query(name, chosen, fields(with_vectors), consistency, limit=size, **self._ordered)
        return [record(each, with_vectors) for each in sorted(rows, key=lambda each: each[KEY].encode())]

    async def search(
        self,
        name: str,
        vectors: Sequence[Vector],
        limit: int,
        among: Selection,
        *,
        metric: Metric,
        index_type: str,
        parameters: Mapping[str, int],
        with_vectors: bool,
        consistency: Consistency,
    ) -> list[list[Hit]]:
        answers: Any = await self.call(
            self._client.search,
            name,
            data=list(vectors),
            anns_field=VECTOR,
            filter=expression(among),
            limit=limit,
            output_fields=fields(with_vectors),
            search_params={"metric_type": metric.value, "params": search_parameters(index_type, parameters, limit)},
            consistency_level=consistency.value,
        )
        return [[hit(each, metric, with_vectors) for each in rows] for rows in answers]

    async def _query(
        self, name: str, chosen: str, columns: list[str], consistency: Consistency, **options: Any
    ) -> list[dict[str, Any]]:
        """The rows of the expression `chosen`."""
        rows = await self.call(
            self._client.query,
            name,
            filter=chosen,
            output_fields=columns,
            consistency_level=consistency.value,
            **options,
        )
        return list(rows)

    async def close(self) -> None:
        self._workers.close()
        self._client.close()
