"""Limits of what a caller may nest, list and send at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from protos import retriever_pb2, search_pb2, types_pb2
from services.common.attributes import check_attributes
from services.common.errors import InvalidField
from services.common.ids import page_start
from services.common.limits import MAX_ATTRIBUTES_DEPTH
from services.common.waiting import Patience, Wait
from services.retriever.filters.conditions import read_filter


def nested(depth: int, lists: bool) -> struct_pb2.Struct:
    """Attributes with objects or lists inside each other, `depth` with the outermost object counted."""
    value: Any = 1
    for _ in range(depth - 1):
        value = [value] if lists else {"a": value}
    struct = struct_pb2.Struct()
    struct.update({"a": value})
    return struct


@pytest.mark.parametrize("lists", [True, False])
def test_attributes_that_are_taken_can_be_given_back_by_every_message(lists: bool) -> None:
    deep = check_attributes(nested(MAX_ATTRIBUTES_DEPTH, lists), "attributes")
    for depth in (MAX_ATTRIBUTES_DEPTH + 1, 30):
        with pytest.raises(InvalidField, match="nested deeper than 16"):
            check_attributes(nested(depth, lists), "attributes")
    found = retriever_pb2.SearchVectorsResponse(
        results=[retriever_pb2.VectorHits(hits=[retriever_pb2.VectorHit(attributes=deep)])]
    )
    for message in (found, search_pb2.SearchResponse(hits=[search_pb2.Hit(attributes=deep)])):
        assert type(message).FromString(message.SerializeToString()) == message
        assert json_format.Parse(json_format.MessageToJson(message), type(message)()) == message


def one_of(count: int, text: str = "") -> types_pb2.Filter:
    value = types_pb2.FilterValue(string_value=text) if text else types_pb2.FilterValue(int_value=1)
    return types_pb2.Filter(one_of=types_pb2.OneOfCondition(attribute="a", values=[value] * count))


def test_a_filter_has_so_many_values_and_bytes_in_all() -> None:
    def both(*filters: types_pb2.Filter) -> types_pb2.Filter:
        return types_pb2.Filter(all=types_pb2.AllCondition(filters=filters))

    read_filter(both(one_of(5000), one_of(5000)))
    with pytest.raises(InvalidField, match="10,000 values") as caught:
        read_filter(both(one_of(5000), one_of(5001)))
    assert caught.value.field == "filter.all.filters[1].one_of"
    read_filter(one_of(9000, "x" * 100))
    with pytest.raises(InvalidField, match="1,048,576 bytes"):
        read_filter(both(*[one_of(10_000, "x" * 20)] * 6))


def test_a_page_token_is_short() -> None:
    with pytest.raises(InvalidField):
        page_start("YWFh" * 1000)


async def test_a_wait_ends_unless_it_is_forgiven() -> None:
    patience = Patience(0.2)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    forgiven = Wait()
    forgiven.forgiven = True
    assert await patience.wait(forgiven, asyncio.sleep(0.4, "done"), "sent nothing") == "done"
    with pytest.raises(Exception, match=r"sent nothing for 0\.2 s"):
        await patience.wait(Wait(), never, "sent nothing")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
