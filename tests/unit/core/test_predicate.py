"""What a filter passes, item by item: the reading that everything faster is held to."""

from __future__ import annotations

import math
from typing import Any

import pytest

from clozerec_core.catalogue import ColumnType
from clozerec_core.filters import parse_filter
from clozerec_core.predicate import Cell, matches

SCHEMA = {
    "brand": ColumnType.STRING,
    "in_stock": ColumnType.BOOL,
    "year": ColumnType.INTEGER,
    "price": ColumnType.FLOAT,
    "released": ColumnType.DATETIME,
    "genres": ColumnType.STRING_LIST,
}


def passes(document: dict[str, Any], **item: Cell) -> bool:
    return matches(parse_filter(document, SCHEMA), item)


def test_all_entries_of_a_filter_must_hold() -> None:
    document = {"meta.brand": "a", "meta.year": {"$gte": 1990, "$lt": 2000}}
    assert passes(document, brand="a", year=1990)
    assert not passes(document, brand="a", year=2000)
    assert not passes(document, brand="b", year=1995)


def test_a_list_of_values_means_any_of_them() -> None:
    assert passes({"meta.brand": ["a", "b"]}, brand="b")
    assert not passes({"meta.brand": ["a", "b"]}, brand="c")


def test_strings_compare_exactly() -> None:
    assert not passes({"meta.brand": "007"}, brand="7")
    assert not passes({"meta.brand": "Samsung"}, brand="samsung")
    assert not passes({"meta.brand": "caf\u00e9"}, brand="cafe\u0301")
    assert not passes({"meta.brand": "a"}, brand="a ")


def test_equality_on_a_list_column_is_membership() -> None:
    assert passes({"meta.genres": "Drama"}, genres=("Comedy", "Drama"))
    assert passes({"meta.genres": ["War", "Drama"]}, genres=("Comedy", "Drama"))
    assert not passes({"meta.genres": "Dram"}, genres=("Drama",))


def test_inequality_on_a_list_column_means_that_no_member_matches() -> None:
    assert not passes({"meta.genres": {"$ne": "Drama"}}, genres=("Comedy", "Drama"))
    assert passes({"meta.genres": {"$nin": ["War", "Drama"]}}, genres=("Comedy",))
    assert passes({"meta.genres": {"$ne": "Drama"}}, genres=())


def test_all_asks_for_every_member() -> None:
    assert passes({"meta.genres": {"$all": ["Comedy", "Drama"]}}, genres=("Drama", "War", "Comedy"))
    assert not passes({"meta.genres": {"$all": ["Comedy", "Drama"]}}, genres=("Drama",))


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize(
    "condition",
    [
        *({"$eq": 1}, {"$ne": 1}, {"$in": [1]}, {"$nin": [1]}, {"$nin": []}),
        *({"$gt": 1}, {"$gte": 1}, {"$lt": 1}, {"$lte": 1}, {"$exists": True}),
    ],
    ids=str,
)
def test_a_comparison_with_a_missing_value_is_false(missing: float | None, condition: dict[str, Any]) -> None:
    assert not passes({"meta.price": condition}, price=missing)


def test_exists_tests_for_missing_values() -> None:
    assert passes({"meta.price": {"$exists": False}}, price=None)
    assert passes({"meta.price": {"$exists": False}}, price=math.nan)
    assert passes({"meta.price": {"$exists": False}})
    assert passes({"meta.price": {"$exists": True}}, price=0.0)


def test_an_empty_string_and_an_empty_list_are_present() -> None:
    assert passes({"meta.brand": {"$exists": True}}, brand="")
    assert passes({"meta.brand": ""}, brand="")
    assert passes({"meta.genres": {"$exists": True}}, genres=())


def test_not_is_the_complement_of_the_set_missing_values_included() -> None:
    assert passes({"$not": {"meta.brand": "a"}}, brand=None)
    assert passes({"$not": {"meta.brand": {"$ne": "a"}}}, brand=None)
    assert not passes({"$not": {"meta.brand": "a"}}, brand="a")


@pytest.mark.parametrize("item", [{"brand": "a", "genres": ("x",)}, {}], ids=["present", "missing"])
def test_empty_combinations_and_lists(item: dict[str, Cell]) -> None:
    assert passes({}, **item)
    assert passes({"$and": []}, **item)
    assert passes({"meta.genres": {"$all": []}}, **item)
    assert not passes({"$or": []}, **item)
    assert not passes({"meta.brand": []}, **item)
    assert not passes({"meta.brand": {"$in": []}}, **item)


def test_ranges_on_integers_floats_and_times() -> None:
    assert passes({"meta.year": {"$gt": 1989, "$lte": 1990}}, year=1990)
    assert passes({"meta.price": {"$lt": 0.3}}, price=0.1 + 0.1)
    assert passes({"meta.released": {"$gte": "1970-01-01T01:00:00+01:00"}}, released=0)
    assert not passes({"meta.released": {"$gt": "1970-01-01"}}, released=0)


def test_infinity_is_a_value_like_any_other() -> None:
    assert passes({"meta.price": {"$gt": 1e308}}, price=math.inf)
    assert passes({"meta.price": {"$exists": True}}, price=-math.inf)


def test_combinations_nest() -> None:
    document = {"$or": [{"meta.brand": "a"}, {"$and": [{"meta.in_stock": True}, {"$not": {"meta.year": 1990}}]}]}
    assert passes(document, brand="a")
    assert passes(document, brand="b", in_stock=True, year=1991)
    assert not passes(document, brand="b", in_stock=True, year=1990)
