"""Filters on the wire: what the retriever reads is what the gateway parsed, and nothing malformed gets through."""

from __future__ import annotations

import math
from typing import Any

import pytest

from clozerec.v1 import filter_pb2
from clozerec.v1.filter_pb2 import Condition, Filter, FilterList, Value
from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import BadRequest
from clozerec_core.filter_wire import columns_to_wire, filter_from_wire, filter_to_wire
from clozerec_core.filters import MAX_CONDITIONS, MAX_LEVELS, MAX_VALUES, parse_filter
from clozerec_core.predicate import EVERYTHING, AnyOf, Compare, Operator

SCHEMA = {
    "brand": ColumnType.STRING,
    "in_stock": ColumnType.BOOL,
    "year": ColumnType.INTEGER,
    "price": ColumnType.FLOAT,
    "released": ColumnType.DATETIME,
    "genres": ColumnType.STRING_LIST,
}


def condition(column: str, operator: str, *values: Value) -> Filter:
    return Filter(condition=Condition(column=column, operator=f"OPERATOR_{operator}", values=values))


def read(message: Filter) -> Any:
    return filter_from_wire(message, SCHEMA)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"$and": []},
        {"$or": []},
        {"$not": {"$or": []}},
        {"meta.brand": ["", "caf\u00e9", "\u0000"]},
        {"meta.in_stock": {"$ne": False}},
        {"meta.year": {"$gte": -(2**53), "$lt": 2**53}},
        {"meta.price": {"$nin": [0.1, -0.0, 5e-324]}},
        {"meta.released": {"$gt": "0001-01-01", "$lte": "9999-12-31T23:59:59.999999Z"}},
        {"meta.genres": {"$all": [], "$exists": False}},
        {"$or": [{"meta.brand": "a", "meta.year": 1}, {"$not": {"meta.genres": {"$all": ["x", "y"]}}}]},
    ],
    ids=str,
)
def test_a_filter_survives_the_wire(document: dict[str, Any]) -> None:
    predicate = parse_filter(document, SCHEMA)
    message = Filter.FromString(filter_to_wire(predicate, SCHEMA).SerializeToString())
    assert filter_from_wire(message, SCHEMA) == predicate


def test_the_deepest_and_the_largest_filters_that_callers_may_send_survive_the_wire() -> None:
    deepest: dict[str, Any] = {"meta.year": {"$gt": 1, "$lt": 9}, "meta.brand": "a"}
    for _ in range(MAX_LEVELS - 1):
        deepest = {"$or": [deepest], "meta.in_stock": True}
    largest = {"$or": [{"meta.brand": ["a"] * (MAX_VALUES // MAX_CONDITIONS)}] * MAX_CONDITIONS}
    for document in (deepest, largest):
        predicate = parse_filter(document, SCHEMA)
        message = Filter.FromString(filter_to_wire(predicate, SCHEMA).SerializeToString())
        assert filter_from_wire(message, SCHEMA) == predicate


def test_an_unset_filter_passes_everything() -> None:
    assert read(Filter()) == EVERYTHING
    assert read(Filter(any_of=FilterList(parts=[Filter()]))) == AnyOf((EVERYTHING,))


def test_every_operator_and_type_has_its_own_number() -> None:
    for operator in Operator:
        assert filter_pb2.Operator.Value(f"OPERATOR_{operator.name}") > 0
    kinds = {f"COLUMN_TYPE_{kind.name}": kind for kind in ColumnType}
    columns = [(column.name, kinds[filter_pb2.ColumnType.Name(column.type)]) for column in columns_to_wire(SCHEMA)]
    assert columns == list(SCHEMA.items()), "columns keep their order"


@pytest.mark.parametrize(
    ("message", "field", "says"),
    [
        (condition("colour", "EQ", Value(string_value="x")), "filter.condition.column", "the catalogue has brand"),
        (Filter(condition=Condition(column="brand")), "filter.condition.operator", "unspecified"),
        (Filter(condition=Condition(column="brand", operator=99)), "filter.condition.operator", "unknown"),  # type: ignore[arg-type]
        (condition("brand", "GT", Value(string_value="x")), "filter.condition.operator", "ranges"),
        (condition("brand", "ALL"), "filter.condition.operator", "list columns"),
        (condition("brand", "EQ"), "filter.condition.values", "one value, not 0"),
        (condition("year", "LT", *[Value(integer_value=1)] * 2), "filter.condition.values", "one value, not 2"),
        (condition("brand", "EQ", Value(integer_value=1)), "filter.condition.values[0]", "string_value"),
        (condition("brand", "EQ", Value()), "filter.condition.values[0]", "string_value"),
        (condition("year", "EQ", Value(float_value=1)), "filter.condition.values[0]", "integer_value"),
        (condition("released", "EQ", Value(integer_value=1)), "filter.condition.values[0]", "datetime_us"),
        (condition("in_stock", "EXISTS", Value(string_value="")), "filter.condition.values[0]", "bool_value"),
        (condition("price", "EQ", Value(float_value=math.nan)), "filter.condition.values[0]", "finite"),
        (condition("price", "GT", Value(float_value=-math.inf)), "filter.condition.values[0]", "finite"),
        (
            Filter(all_of=FilterList(parts=[Filter(), Filter(negation=condition("brand", "EQ"))])),
            "filter.all_of.parts[1].negation.condition.values",
            "one value",
        ),
    ],
)
def test_a_malformed_filter_is_refused_by_its_path(message: Filter, field: str, says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(message)
    (violation,) = refused.value.violations
    assert violation.field == field
    assert says in violation.description


def test_a_tree_beyond_the_limits_is_refused() -> None:
    one = condition("brand", "EQ", Value(string_value="a"))
    read(Filter(any_of=FilterList(parts=[one] * MAX_CONDITIONS)))
    for part in (one, Filter(), Filter(all_of=FilterList())):
        with pytest.raises(BadRequest, match="over 256 conditions"):
            read(Filter(any_of=FilterList(parts=[part] * (MAX_CONDITIONS + 1))))
    read(condition("brand", "IN", *[Value(string_value="a")] * MAX_VALUES))
    with pytest.raises(BadRequest, match="1024 values"):
        read(condition("brand", "IN", *[Value(string_value="a")] * (MAX_VALUES + 1)))


def test_a_tree_that_is_too_deep_is_refused() -> None:
    message = Filter()
    for _ in range(30):
        message = Filter(negation=message)
    with pytest.raises(BadRequest, match="nested deeper"):
        read(message)


def test_a_predicate_on_the_wire_has_the_columns_type() -> None:
    message = filter_to_wire(Compare("released", Operator.GTE, (5,)), SCHEMA)
    assert message.condition.values[0].WhichOneof("kind") == "datetime_us"
