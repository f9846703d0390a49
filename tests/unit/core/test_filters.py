"""The JSON grammar of filters: what each form means, and how each fault is named."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import BadRequest, Violation
from clozerec_core.filters import MAX_CONDITIONS, MAX_LEVELS, MAX_VALUES, parse_datetime, parse_filter
from clozerec_core.predicate import EVERYTHING, AllOf, AnyOf, Compare, Negation, Operator

SCHEMA = {
    "brand": ColumnType.STRING,
    "in_stock": ColumnType.BOOL,
    "year": ColumnType.INTEGER,
    "price": ColumnType.FLOAT,
    "released": ColumnType.DATETIME,
    "genres": ColumnType.STRING_LIST,
}


def violations(document: Any) -> tuple[Violation, ...]:
    with pytest.raises(BadRequest) as refused:
        parse_filter(document, SCHEMA)
    return refused.value.violations


def the_violation(document: Any) -> Violation:
    (violation,) = violations(document)
    return violation


@pytest.mark.parametrize(
    ("document", "meaning"),
    [
        ({}, EVERYTHING),
        ({"meta.brand": "Samsung"}, Compare("brand", Operator.EQ, ("Samsung",))),
        ({"meta.brand": ["a", "b"]}, Compare("brand", Operator.IN, ("a", "b"))),
        ({"meta.brand": []}, Compare("brand", Operator.IN, ())),
        ({"meta.brand": {"$ne": ""}}, Compare("brand", Operator.NE, ("",))),
        ({"meta.in_stock": True}, Compare("in_stock", Operator.EQ, (True,))),
        ({"meta.year": 1999.0}, Compare("year", Operator.EQ, (1999,))),
        ({"meta.year": -(2**53)}, Compare("year", Operator.EQ, (-(2**53),))),
        ({"meta.price": 3}, Compare("price", Operator.EQ, (3.0,))),
        ({"meta.price": {"$exists": False}}, Compare("price", Operator.EXISTS, (False,))),
        ({"meta.genres": "Drama"}, Compare("genres", Operator.EQ, ("Drama",))),
        ({"meta.genres": {"$all": []}}, Compare("genres", Operator.ALL, ())),
        ({"meta.released": {"$lt": "1970-01-01T00:00:01"}}, Compare("released", Operator.LT, (1_000_000,))),
        (
            {"meta.year": {"$gte": 1990, "$lt": 2000}},
            AllOf((Compare("year", Operator.GTE, (1990,)), Compare("year", Operator.LT, (2000,)))),
        ),
        (
            {"meta.brand": "a", "meta.in_stock": False},
            AllOf((Compare("brand", Operator.EQ, ("a",)), Compare("in_stock", Operator.EQ, (False,)))),
        ),
        ({"meta.brand": {}}, EVERYTHING),
        ({"$and": []}, AllOf(())),
        ({"$or": []}, AnyOf(())),
        ({"$not": {}}, Negation(EVERYTHING)),
        (
            {"$or": [{"meta.brand": "a"}, {"$not": {"meta.brand": "b"}}]},
            AnyOf((Compare("brand", Operator.EQ, ("a",)), Negation(Compare("brand", Operator.EQ, ("b",))))),
        ),
    ],
)
def test_each_form_of_the_grammar_has_its_typed_meaning(document: Any, meaning: object) -> None:
    assert parse_filter(document, SCHEMA) == meaning


@pytest.mark.parametrize("operator", list(Operator), ids=lambda operator: operator.value)
def test_every_operator_is_read_under_its_own_name(operator: Operator) -> None:
    operand = {Operator.EXISTS: True, Operator.IN: ["x"], Operator.NIN: ["x"], Operator.ALL: ["x"]}.get(operator)
    column = "genres" if operand is not None else "year"
    predicate = parse_filter({f"meta.{column}": {operator.value: 7 if operand is None else operand}}, SCHEMA)
    assert isinstance(predicate, Compare)
    assert predicate.operator is operator


@pytest.mark.parametrize(
    ("document", "field", "says"),
    [
        # JSON null, anywhere a value may stand
        ({"meta.brand": None}, "filters.meta.brand", "$exists: false"),
        ({"meta.brand": {"$ne": None}}, "filters.meta.brand.$ne", "not null"),
        ({"meta.brand": {"$in": ["a", None]}}, "filters.meta.brand.$in[1]", "not null"),
        ({"meta.brand": ["a", None]}, "filters.meta.brand[1]", "not null"),
        # numbers
        ({"meta.year": 1999.5}, "filters.meta.year", "a whole number, not the fraction 1999.5"),
        ({"meta.year": 2**53 + 1}, "filters.meta.year", "±2^53"),
        ({"meta.year": -(2.0**54)}, "filters.meta.year", "±2^53"),
        ({"meta.year": 10**400}, "filters.meta.year", "±2^53"),
        ({"meta.year": math.nan}, "filters.meta.year", "not nan"),
        ({"meta.price": math.nan}, "filters.meta.price", "not nan"),
        ({"meta.price": {"$gt": math.inf}}, "filters.meta.price.$gt", "not inf"),
        ({"meta.price": 10**400}, "filters.meta.price", "a double"),
        # names
        ({"meta.colour": "red"}, "filters.meta.colour", "the catalogue has brand, in_stock"),
        ({"meta.brnad": "a"}, "filters.meta.brnad", 'did you mean "brand"?'),
        ({"brand": "a"}, "filters.brand", 'write "meta.brand"'),
        ({"colour": "a"}, "filters.colour", "$and, $or, $not"),
        ({"$nor": []}, "filters.$nor", "$and, $or, $not"),
        ({"meta.brand": {"$equals": "a"}}, "filters.meta.brand.$equals", "$eq"),
        ({"meta.brand": {"$lik": "a"}}, "filters.meta.brand.$lik", "unknown operator"),
        # types
        ({"meta.brand": 7}, "filters.meta.brand", "a string: expected a string, not a number"),
        ({"meta.brand": True}, "filters.meta.brand", "not true or false"),
        ({"meta.in_stock": "true"}, "filters.meta.in_stock", "expected true or false, not a string"),
        ({"meta.in_stock": 1}, "filters.meta.in_stock", "not a number"),
        ({"meta.year": "1999"}, "filters.meta.year", "an integer: expected a whole number, not a string"),
        ({"meta.year": True}, "filters.meta.year", "not true or false"),
        ({"meta.price": {"$eq": [1]}}, "filters.meta.price.$eq", "not a list"),
        ({"meta.brand": {"$eq": {}}}, "filters.meta.brand.$eq", "not an object"),
        ({"meta.genres": 7}, "filters.meta.genres", "a list of string: expected a string, not a number"),
        ({"meta.genres": [["Drama"]]}, "filters.meta.genres[0]", "not a list"),
        ({"meta.released": 0}, "filters.meta.released", "RFC 3339"),
        ({"meta.released": "yesterday"}, "filters.meta.released", 'not "yesterday"'),
        ({"meta.released": "2026-13-01"}, "filters.meta.released", "RFC 3339"),
        # operators and what they take
        ({"meta.brand": {"$gt": "a"}}, "filters.meta.brand.$gt", "integer, float and datetime columns only"),
        ({"meta.in_stock": {"$lte": True}}, "filters.meta.in_stock.$lte", "integer, float and datetime"),
        ({"meta.genres": {"$gte": "a"}}, "filters.meta.genres.$gte", "integer, float and datetime"),
        ({"meta.brand": {"$all": ["a"]}}, "filters.meta.brand.$all", "list columns only"),
        ({"meta.brand": {"$in": "a"}}, "filters.meta.brand.$in", "expected a list of values, not a string"),
        ({"meta.genres": {"$all": "a"}}, "filters.meta.genres.$all", "expected a list of values"),
        ({"meta.brand": {"$exists": 1}}, "filters.meta.brand.$exists", "expected true or false, not a number"),
        ({"meta.brand": {"$exists": None}}, "filters.meta.brand.$exists", "not null"),
        # combinations
        ({"$and": {}}, "filters.$and", "expected a list of filters, not an object"),
        ({"$or": "x"}, "filters.$or", "expected a list of filters, not a string"),
        ({"$or": [{}, 3]}, "filters.$or[1]", "expected a filter"),
        ({"$not": []}, "filters.$not", "expected a filter"),
        ({"$not": None}, "filters.$not", "not null"),
        ([], "filters", "expected a filter"),
    ],
)
def test_a_fault_is_named_by_its_path_and_says_what_would_be_right(document: Any, field: str, says: str) -> None:
    violation = the_violation(document)
    assert violation.field == field
    assert says in violation.description


def test_every_fault_of_a_filter_is_reported_at_once() -> None:
    document = {"meta.year": 1.5, "$or": [{"meta.colour": "x"}, {"meta.brand": None}], "nonsense": 1}
    assert [violation.field for violation in violations(document)] == [
        "filters.meta.year",
        "filters.$or[0].meta.colour",
        "filters.$or[1].meta.brand",
        "filters.nonsense",
    ]


def test_a_schema_without_columns_says_so() -> None:
    with pytest.raises(BadRequest, match="the catalogue has no columns"):
        parse_filter({"meta.brand": "a"}, {})


def nested(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {"meta.brand": "a"}
    for _ in range(levels - 1):
        document = {"$and": [document]}
    return document


def test_eight_levels_are_allowed_and_nine_are_not() -> None:
    parse_filter(nested(MAX_LEVELS), SCHEMA)
    violation = the_violation(nested(MAX_LEVELS + 1))
    assert violation.field == "filters" + ".$and[0]" * MAX_LEVELS
    assert "8 levels" in violation.description


def test_a_filter_nested_a_thousand_deep_is_refused_without_recursing_to_its_end() -> None:
    assert "8 levels" in the_violation(nested(900)).description


def test_256_conditions_are_allowed_and_257_are_not() -> None:
    condition = {"meta.brand": "a"}
    parse_filter({"$or": [condition] * MAX_CONDITIONS}, SCHEMA)
    violation = the_violation({"$or": [condition] * (MAX_CONDITIONS + 1)})
    assert violation == Violation("filters", "too many conditions; at most 256 are allowed in one filter")


@pytest.mark.parametrize(
    "part",
    [{}, {"$and": []}, {"$or": []}, {"meta.brand": {}}, {"meta.nowhere": 1}, {"x": 1}, {"$and": 1}, 7],
    ids=json.dumps,
)
def test_parts_that_hold_no_condition_count_towards_the_limit_too(part: Any) -> None:
    refused = violations({"$and": [part] * 100_000})
    assert refused[-1].description.startswith("too many conditions")
    assert len(refused) <= MAX_CONDITIONS + 1


def test_1024_values_are_allowed_in_the_whole_tree_and_1025_are_not() -> None:
    half = {"meta.brand": ["a"] * (MAX_VALUES // 2)}
    parse_filter({"$or": [half, half]}, SCHEMA)
    violation = the_violation({"$or": [half, half, {"meta.brand": "one more"}]})
    assert violation == Violation("filters", "too many values; at most 1024 are allowed in one filter")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00", 0),
        ("1970-01-01T00:00:00", 0),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59.5Z", -0.5),
        ("1970-01-01T00:00:00.000001Z", 1e-6),
        ("2000-02-29T12:00:00-05:30", 951_845_400),
    ],
)
def test_times_are_read_as_rfc_3339_and_naive_ones_as_utc(text: str, seconds: float) -> None:
    assert parse_datetime(text) == round(seconds * 1_000_000)


@pytest.mark.parametrize(
    "text",
    [
        *("", "1970", "1970-01", "70-01-01", "19700101", "1970-W01-1", "1970-02-30"),
        *("1970-01-01T", "1970-01-01T25:00:00Z", "1970-01-01T00:00:00+1", "1970-01-01T00:00:00+25:00"),
        *(" 1970-01-01", "1970-01-01\n", "١٩٧٠-01-01"),
    ],
)
def test_other_texts_are_no_times(text: str) -> None:
    assert parse_datetime(text) is None
