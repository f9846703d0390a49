"""Random catalogues, filters and predicates over one schema that has a column of every type.

Values come from small pools, so that filters and items meet; the pools hold the values that programs get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bundle_factory import make_catalogue
from hypothesis import strategies as st

from clozerec_core.catalogue import Catalogue, ColumnType, rfc3339
from clozerec_core.predicate import MANY, RANGES, AllOf, AnyOf, Compare, Negation, Operator, Predicate, Scalar

SCHEMA = {
    "brand": ColumnType.STRING,
    "in_stock": ColumnType.BOOL,
    "year": ColumnType.INTEGER,
    "price": ColumnType.FLOAT,
    "released": ColumnType.DATETIME,
    "genres": ColumnType.STRING_LIST,
}

STRINGS = ["", " ", "7", "007", "a", "A", "a\0", "caf\u00e9", "cafe\u0301", "\U0001f3ac", "null"]
INTEGERS = [-(2**53), -1, 0, 1, 2, 2**53]
FLOATS = [-1e308, -1.5, -0.0, 0.0, 5e-324, 0.1, 0.1 + 0.2, 1.5]
TIMES_US = [-62_135_596_800_000_000, -1, 0, 1, 1_000_000, 253_402_300_799_999_999]

VALUES: dict[ColumnType, st.SearchStrategy[Any]] = {
    ColumnType.STRING: st.sampled_from(STRINGS),
    ColumnType.STRING_LIST: st.sampled_from(STRINGS),
    ColumnType.BOOL: st.booleans(),
    ColumnType.INTEGER: st.sampled_from(INTEGERS) | st.integers(-(2**53), 2**53),
    ColumnType.FLOAT: st.sampled_from(FLOATS) | st.floats(allow_nan=False, allow_infinity=False),
    ColumnType.DATETIME: st.sampled_from(TIMES_US),
}
"""What a condition may name."""

CELLS: dict[ColumnType, st.SearchStrategy[Any]] = {
    **{kind: st.none() | values for kind, values in VALUES.items()},
    ColumnType.FLOAT: st.none() | st.sampled_from([*FLOATS, math.nan, math.inf, -math.inf]),
    ColumnType.STRING_LIST: st.none() | st.lists(st.sampled_from(STRINGS) | st.none(), max_size=3),
}
"""What an item may hold."""


POOLS: dict[ColumnType, list[Any]] = {
    ColumnType.STRING: STRINGS,
    ColumnType.STRING_LIST: STRINGS,
    ColumnType.BOOL: [False, True],
    ColumnType.INTEGER: INTEGERS,
    ColumnType.FLOAT: FLOATS,
    ColumnType.DATETIME: TIMES_US,
}
"""The fixed part of `VALUES`, for tests that go through all of it."""


def operators(kind: ColumnType) -> list[Operator]:
    """Those that a column of this type takes."""
    ordered = kind in (ColumnType.INTEGER, ColumnType.FLOAT, ColumnType.DATETIME)
    return [
        operator
        for operator in Operator
        if (ordered or operator not in RANGES) and (kind is ColumnType.STRING_LIST or operator is not Operator.ALL)
    ]


@st.composite
def _operands(draw: st.DrawFn) -> tuple[str, Operator, tuple[Scalar, ...]]:
    column = draw(st.sampled_from(list(SCHEMA)))
    kind = SCHEMA[column]
    operator = draw(st.sampled_from(operators(kind)))
    if operator is Operator.EXISTS:
        return column, operator, (draw(st.booleans()),)
    if operator in MANY:
        return column, operator, tuple(draw(st.lists(VALUES[kind], max_size=4)))
    return column, operator, (draw(VALUES[kind]),)


def predicates() -> st.SearchStrategy[Predicate]:
    """Typed predicates, a few levels deep."""
    leaves = _operands().map(lambda operands: Compare(*operands))
    return st.recursive(
        leaves,
        lambda parts: (
            st.lists(parts, max_size=3).map(lambda some: AllOf(tuple(some)))
            | st.lists(parts, max_size=3).map(lambda some: AnyOf(tuple(some)))
            | parts.map(Negation)
        ),
        max_leaves=6,
    )


def _as_json(column: str) -> Callable[[Scalar], Any]:
    return rfc3339 if SCHEMA[column] is ColumnType.DATETIME else lambda value: value  # type: ignore[return-value]


def _condition(operands: tuple[str, Operator, tuple[Scalar, ...]]) -> dict[str, Any]:
    column, operator, values = operands
    shown = list(values) if operator is Operator.EXISTS else [_as_json(column)(value) for value in values]
    return {f"meta.{column}": {operator.value: shown if operator in MANY else shown[0]}}


def _shorthand(operands: tuple[str, Operator, tuple[Scalar, ...]]) -> dict[str, Any]:
    column, operator, values = operands
    if operator not in (Operator.EQ, Operator.IN):
        return _condition(operands)
    shown = [_as_json(column)(value) for value in values]
    return {f"meta.{column}": shown[0] if operator is Operator.EQ else shown}


def documents() -> st.SearchStrategy[dict[str, Any]]:
    """Filters as callers write them."""
    leaves = _operands().map(_condition) | _operands().map(_shorthand) | st.just({})
    return st.recursive(
        leaves,
        lambda parts: (
            st.lists(parts, max_size=3).map(lambda some: {"$and": some})
            | st.lists(parts, max_size=3).map(lambda some: {"$or": some})
            | parts.map(lambda part: {"$not": part})
            | st.tuples(parts, parts).map(lambda two: {**two[0], **two[1]})
        ),
        max_leaves=5,
    )


@st.composite
def catalogues(draw: st.DrawFn, min_items: int = 1, max_items: int = 12) -> Catalogue:
    """Catalogues whose items hold anything, missing values included."""
    size = draw(st.integers(min_items, max_items))
    return make_catalogue(
        {name: draw(st.lists(CELLS[kind], min_size=size, max_size=size)) for name, kind in SCHEMA.items()}, SCHEMA
    )
