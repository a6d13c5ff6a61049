"""Filters on both vector stores agree with a plain evaluation, and no value is read as part of an expression."""

from __future__ import annotations

import math
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import struct_pb2
from grpc import aio

from protos import retriever_pb2 as pb
from protos import retriever_pb2_grpc
from protos import types_pb2 as types
from services.common.errors import InvalidField
from services.retriever.__main__ import running
from services.retriever.filters.conditions import read_filter
from services.retriever.settings import RetrieverSettings
from tests.support.system import refusal

if TYPE_CHECKING:  # the asynchronous stubs exist for type checkers alone
    Stub = retriever_pb2_grpc.RetrieverServiceAsyncStub

MODEL = types.ModelFingerprint(name="m", dim=2, checkpoint_sha256="a" * 64, preprocessing_version=1)
STRONG = types.CONSISTENCY_STRONG
# `make chaos` tries 10,000.
FILTERS = int(os.environ.get("WENTU_TEST_FILTERS", "250"))
# Characters that end a literal, a path or a statement in some language.
HOSTILE = (
    '" or image_id != "',
    '"] == 1 or attributes["',
    "' or '1'='1",
    "'; DROP TABLE images; --",
    "\\",
    '\\" or true or "',
    "\\u0022 or true",
    "\\x22",
    '"))) or (((true',
    "][",
    "[0]",
    "a]b",
    "a[b",
    "%",
    "%22",
    "%content",
    "/",
    "~0",
    "~1",
    "a/b",
    "{x}",
    "\n",
    "\t\r\b\f\v\a",
    "\x01\x7f",
    "\u2028\u2029",
    "\u202e",
    "null",
    "true",
    "1",
    "1.0",
    "",
    " ",
    "a%b_c",
    "男孩在泳池里滑滑梯",
    "👩‍👩‍👧",
    "é",
    "e\u0301",
    "長い" * 40,
    "x" * 255,
)
NAMES = ("color", "year", "标签", "image_id", "a b", "ok", *(each for each in HOSTILE if 0 < len(each.encode()) <= 255))
TEXTS = ("red", "green", "Red", "红", "红色", *HOSTILE)
NUMBERS = (0.0, -0.0, 1.0, 2.0, 3.5, -1.0, 1e-9, 1e300, -1e300, 2.0**53, 5e-324, 2024.0, 0.1)


@pytest.fixture(params=["lite", "server"])
async def stub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stub]:
    milvus = str(tmp_path / "milvus.db")
    if request.param == "server":
        milvus = request.getfixturevalue("milvus_address")
    settings = RetrieverSettings(port=0, milvus=milvus, shutdown_grace_seconds=0)
    async with running(settings) as port, aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield retriever_pb2_grpc.RetrieverServiceStub(channel)


def random_value(rng: random.Random) -> str | float | bool:
    return rng.choice((rng.choice(TEXTS), rng.choice(NUMBERS), rng.random() < 0.5))


def random_attributes(rng: random.Random) -> dict[str, Any]:
    strange: tuple[Any, ...] = (None, [], ["red", 1.0], {}, {"color": "red"})
    return {
        rng.choice(NAMES[: rng.choice((4, len(NAMES)))]): rng.choice(strange)
        if rng.random() < 0.1
        else random_value(rng)
        for _ in range(rng.randrange(8))
    }


def wire(value: Any) -> types.FilterValue:
    if isinstance(value, bool):
        return types.FilterValue(bool_value=value)
    if isinstance(value, str):
        return types.FilterValue(string_value=value)
    if value.is_integer() and abs(value) < 2**60:
        return types.FilterValue(int_value=int(value))
    return types.FilterValue(double_value=value)


def random_filter(rng: random.Random, stored: list[dict[str, Any]], depth: int = 0) -> types.Filter:
    """Half of the names and values come from a stored image, so that filters match some images."""
    example = rng.choice(stored)
    name = rng.choice(list(example)) if example and rng.random() < 0.7 else rng.choice(NAMES)
    value = example.get(name)
    if not isinstance(value, str | float | bool) or rng.random() < 0.4:
        value = random_value(rng)
    kind = rng.choice(("equals", "one_of", "range", "exists") + (("all", "any", "not") if depth < 4 else ()))
    if kind == "equals":
        return types.Filter(equals=types.EqualsCondition(attribute=name, value=wire(value)))
    if kind == "one_of":
        values = [value, *(random_value(rng) for _ in range(rng.randrange(6)))]
        return types.Filter(one_of=types.OneOfCondition(attribute=name, values=map(wire, values)))
    if kind == "range":
        pool = TEXTS if isinstance(value, str) else NUMBERS
        value = rng.choice(pool) if isinstance(value, bool) else value
        low, high = rng.choice(("gt", "gte")), rng.choice(("lt", "lte"))
        bounds = {low: wire(value), high: wire(rng.choice(pool))}
        if rng.random() < 0.6:
            del bounds[rng.choice((low, high))]
        return types.Filter(range=types.RangeCondition(attribute=name, **bounds))
    if kind == "exists":
        return types.Filter(exists=types.ExistsCondition(attribute=name))
    if kind == "not":
        return types.Filter(**{"not": random_filter(rng, stored, depth + 1)})  # type: ignore[arg-type]
    parts = [random_filter(rng, stored, depth + 1) for _ in range(rng.randrange(1, 4))]
    if kind == "all":
        return types.Filter(all=types.AllCondition(filters=parts))
    return types.Filter(any=types.AnyCondition(filters=parts))


def plain(value: types.FilterValue) -> tuple[str, Any]:
    """The type and value of an attribute."""
    kind = value.WhichOneof("kind")
    found = getattr(value, str(kind))
    return ("number", float(found)) if kind in ("int_value", "double_value") else (str(kind).partition("_")[0], found)


def typed(value: Any) -> tuple[str, Any]:
    for kind, name in ((bool, "bool"), (str, "string"), (float, "number")):
        if isinstance(value, kind):
            return name, value
    return "other", None


def holds(condition: types.Filter, attributes: dict[str, Any]) -> bool:
    """Evaluate a filter as the contract describes it."""
    kind = condition.WhichOneof("condition")
    if kind == "all":
        return all(holds(each, attributes) for each in condition.all.filters)
    if kind == "any":
        return any(holds(each, attributes) for each in condition.any.filters)
    if kind == "not":
        return not holds(getattr(condition, "not"), attributes)
    part = getattr(condition, str(kind))
    value = attributes.get(part.attribute)
    if kind == "exists":
        return value is not None
    mine = typed(value)
    if kind == "equals":
        return mine == plain(part.value)
    if kind == "one_of":
        return mine in [plain(each) for each in part.values]
    for name, right in (("gt", 1), ("gte", 1), ("lt", -1), ("lte", -1)):
        if not part.HasField(name):
            continue
        theirs = plain(getattr(part, name))
        if mine[0] != theirs[0] or mine[0] == "bool":
            return False
        side = (mine[1] > theirs[1]) - (mine[1] < theirs[1])
        if side != right and not (side == 0 and name.endswith("e")):
            return False
    return True


async def fill(stub: Stub, name: str, stored: list[dict[str, Any]]) -> None:
    await stub.DropVectorCollection(pb.DropVectorCollectionRequest(collection=name))
    await stub.CreateVectorCollection(
        pb.CreateVectorCollectionRequest(
            collection=name, model=MODEL, index=types.IndexSpec(type=types.INDEX_TYPE_FLAT)
        )
    )
    records = []
    for place, attributes in enumerate(stored):
        struct = struct_pb2.Struct()
        struct.update(attributes)
        angle = place / len(stored)
        vector = types.Embedding(values=[math.cos(angle), math.sin(angle)])
        records.append(pb.VectorRecord(image_id=f"{place:03}", embedding=vector, attributes=struct))
    await stub.UpsertVectors(pb.UpsertVectorsRequest(collection=name, records=records, model=MODEL))
    await stub.CountVectors(pb.CountVectorsRequest(collection=name, consistency=STRONG))


async def chosen(stub: Stub, name: str, where: types.Filter) -> list[str]:
    found = await stub.ListVectors(pb.ListVectorsRequest(collection=name, filter=where, page_size=1000))
    return [record.image_id for record in found.records]


async def test_random_filters_choose_what_a_plain_evaluation_chooses(stub: Stub) -> None:
    rng = random.Random(4)
    stored = [random_attributes(rng) for _ in range(80)]
    await fill(stub, "fuzz", stored)
    returned = await stub.ListVectors(pb.ListVectorsRequest(collection="fuzz", page_size=1000))
    assert [dict(record.attributes) for record in returned.records] == [
        {name: struct(value) for name, value in each.items()} for each in stored
    ], "attributes come back as they were handed in"
    some = 0
    for _ in range(FILTERS):
        where = random_filter(rng, stored)
        expected = [f"{place:03}" for place, attributes in enumerate(stored) if holds(where, attributes)]
        assert await chosen(stub, "fuzz", where) == expected, where
        some += 0 < len(expected) < len(stored)
    assert some > FILTERS / 4, "most of them chose all or none"


def struct(value: Any) -> Any:
    whole = struct_pb2.Struct()
    whole.update({"value": value})
    return whole["value"]


async def test_hostile_names_and_values_stay_in_their_place(stub: Stub) -> None:
    stored = [{"quiet": "x"}, *({name or "empty": name} for name in HOSTILE)]
    await fill(stub, "hostile", stored)
    for place, text in enumerate(HOSTILE, start=1):
        value = types.FilterValue(string_value=text)
        if text:
            named = types.EqualsCondition(attribute=text, value=value)
            assert await chosen(stub, "hostile", types.Filter(equals=named)) == [f"{place:03}"], text
            there = types.ExistsCondition(attribute=text)
            assert await chosen(stub, "hostile", types.Filter(exists=there)) == [f"{place:03}"], text
        quiet = types.EqualsCondition(attribute="quiet", value=value)
        assert await chosen(stub, "hostile", types.Filter(equals=quiet)) == [], text
        many = types.OneOfCondition(attribute="quiet", values=[value, types.FilterValue(string_value="x")])
        assert await chosen(stub, "hostile", types.Filter(one_of=many)) == ["000"], text


async def test_ten_thousand_values_at_once(stub: Stub) -> None:
    stored = [{"tag": f"标签 {number}", "number": float(number)} for number in range(50)]
    await fill(stub, "many", stored)
    texts = [types.FilterValue(string_value=f"标签 {number}") for number in range(40, 10_040)]
    where = types.Filter(one_of=types.OneOfCondition(attribute="tag", values=texts))
    assert await chosen(stub, "many", where) == [f"{place:03}" for place in range(40, 50)]
    numbers = [types.FilterValue(int_value=number) for number in range(-9990, 10)]
    where = types.Filter(one_of=types.OneOfCondition(attribute="number", values=numbers))
    assert await chosen(stub, "many", where) == [f"{place:03}" for place in range(10)]


async def test_a_filter_narrows_searches_counts_and_pages(stub: Stub) -> None:
    await fill(stub, "narrow", [{"even": place % 2 == 0, "place": float(place)} for place in range(60)])
    even = types.Filter(equals=types.EqualsCondition(attribute="even", value=types.FilterValue(bool_value=True)))
    for exact in (False, True):
        found = await stub.SearchVectors(
            pb.SearchVectorsRequest(
                collection="narrow",
                queries=[types.Embedding(values=[1, 0])],
                top_k=3,
                filter=even,
                model=MODEL,
                exact=exact,
            )
        )
        assert [hit.image_id for hit in found.results[0].hits] == ["000", "002", "004"]
    count = await stub.CountVectors(pb.CountVectorsRequest(collection="narrow", filter=even))
    assert count.count == 30
    token, ids = "", []
    while True:
        page = await stub.ListVectors(
            pb.ListVectorsRequest(collection="narrow", filter=even, page_size=7, page_token=token)
        )
        ids += [record.image_id for record in page.records]
        if not (token := page.next_page_token):
            break
    assert ids == [f"{place:03}" for place in range(0, 60, 2)]
    never = types.Filter(exists=types.ExistsCondition(attribute="no such"))
    nothing = await stub.SearchVectors(
        pb.SearchVectorsRequest(
            collection="narrow", queries=[types.Embedding(values=[1, 0])], top_k=3, filter=never, model=MODEL
        )
    )
    assert not nothing.results[0].hits


def nested(depth: int) -> types.Filter:
    inner = types.Filter(exists=types.ExistsCondition(attribute="a"))
    for _ in range(depth - 1):
        inner = types.Filter(**{"not": inner})  # type: ignore[arg-type]
    return inner


TEXT = types.FilterValue(string_value="x")
NUMBER = types.FilterValue(int_value=1)
NINE = [types.FilterValue(int_value=number) for number in range(9)]
LONG = [types.FilterValue(string_value="x" * 6000)] * 5000
MANY = [types.Filter(exists=types.ExistsCondition(attribute="a"))] * 1000


@pytest.mark.parametrize(
    ("message", "field", "problem"),
    [
        (types.Filter(), "filter", "must have a condition"),
        (types.Filter(equals=types.EqualsCondition(value=TEXT)), "filter.equals.attribute", "1 to 255 bytes"),
        (types.Filter(exists=types.ExistsCondition(attribute="字" * 86)), "filter.exists.attribute", "got 258"),
        (types.Filter(equals=types.EqualsCondition(attribute="a")), "filter.equals.value", "must be set"),
        (types.Filter(one_of=types.OneOfCondition(attribute="a")), "filter.one_of.values", "1 to 10000 items, got 0"),
        (
            types.Filter(one_of=types.OneOfCondition(attribute="a", values=[NUMBER] * 10_001)),
            "filter.one_of.values",
            "got 10001",
        ),
        (
            types.Filter(
                one_of=types.OneOfCondition(attribute="a", values=[types.FilterValue(string_value="x" * 65_536)])
            ),
            "filter.one_of.values[0]",
            "at most 65,535 bytes",
        ),
        (
            types.Filter(range=types.RangeCondition(attribute="a", gt=types.FilterValue(double_value=math.nan))),
            "filter.range.gt",
            "must be finite",
        ),
        (types.Filter(range=types.RangeCondition(attribute="a")), "filter.range", "must have a bound"),
        (
            types.Filter(range=types.RangeCondition(attribute="a", gt=NUMBER, gte=NUMBER)),
            "filter.range.gte",
            "cannot stand beside gt",
        ),
        (
            types.Filter(range=types.RangeCondition(attribute="a", gt=NUMBER, lt=TEXT)),
            "filter.range",
            "bounds of one type",
        ),
        (
            types.Filter(range=types.RangeCondition(attribute="a", gt=types.FilterValue(bool_value=True))),
            "filter.range.gt",
            "a number or text",
        ),
        (types.Filter(all=types.AllCondition()), "filter.all.filters", "1 to 1000 items, got 0"),
        (
            types.Filter(any=types.AnyCondition(filters=[nested(1), types.Filter()])),
            "filter.any.filters[1]",
            "must have a condition",
        ),
        (nested(17), "filter" + ".not" * 16, "nested deeper than 16"),
        (types.Filter(all=types.AllCondition(filters=MANY)), "filter.all.filters[999]", "1,000 conditions"),
        (types.Filter(one_of=types.OneOfCondition(attribute="a", values=LONG)), "filter", "1,048,576 bytes"),
    ],
)
def test_a_bad_filter_is_refused_by_its_field(message: types.Filter, field: str, problem: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_filter(message)
    assert caught.value.field == field
    assert problem in caught.value.message


def deep_and_wide() -> types.Filter:
    """A filter of 999 conditions, 16 levels of all and any in turns. It matches if "a" is 1."""
    true, false = (types.FilterValue(double_value=value) for value in (1.0, 2.0))
    inner = types.Filter(equals=types.EqualsCondition(attribute="a", value=true))
    for level in range(15):
        value = false if level % 2 else true
        others = [types.Filter(equals=types.EqualsCondition(attribute="a", value=value)) for _ in range(65)]
        if level % 2:
            inner = types.Filter(any=types.AnyCondition(filters=[*others[:32], inner, *others[32:]]))
        else:
            inner = types.Filter(all=types.AllCondition(filters=[inner, *others]))
    return inner


async def test_a_filter_of_the_allowed_size_is_served(stub: Stub) -> None:
    await fill(stub, "large", [{"a": 1.0}, {}])
    either = types.OneOfCondition(
        attribute="a", values=[types.FilterValue(string_value="x"), types.FilterValue(bool_value=True), *NINE]
    )
    mixed = [types.Filter(one_of=either), *(types.Filter(**{"not": each}) for each in MANY[:499])]  # type: ignore[arg-type]
    for where, wanted in [
        (deep_and_wide(), ["000"]),
        (types.Filter(all=types.AllCondition(filters=MANY[:999])), ["000"]),
        (types.Filter(all=types.AllCondition(filters=mixed)), []),
        (types.Filter(any=types.AnyCondition(filters=mixed)), ["000", "001"]),
    ]:
        assert await chosen(stub, "large", where) == wanted
    assert await chosen(stub, "large", nested(16)) == ["001"]
    assert await chosen(stub, "large", types.Filter(any=types.AnyCondition(filters=MANY[:999]))) == ["000"]
    with pytest.raises(aio.AioRpcError) as caught:
        await chosen(stub, "large", nested(17))
    assert refusal(caught.value).reason == "INVALID_FIELD"
