"""Filters: three ways to hold one, two ways to evaluate it, one meaning."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from bundle_factory import make_catalogue
from filter_strategies import POOLS, SCHEMA, catalogues, documents, operators, predicates
from hypothesis import given, settings
from hypothesis import strategies as st

from clozerec.v1.filter_pb2 import Filter
from clozerec_core.catalogue import Catalogue, ColumnType
from clozerec_core.filter_wire import filter_from_wire, filter_to_wire
from clozerec_core.filters import parse_filter
from clozerec_core.predicate import MANY, AllOf, AnyOf, Compare, Negation, Operator, Predicate, Scalar, matches, meaning
from clozerec_retriever.masks import RowMasks
from clozerec_retriever.passing import Passing, PassingCache


@pytest.mark.parametrize("column", SCHEMA)
def test_masks_agree_with_the_truthful_reading_on_every_pair_of_cell_and_value(column: str) -> None:
    kind = SCHEMA[column]
    pool = POOLS[kind]
    cells: list[Any] = [None, *pool]
    if kind is ColumnType.STRING_LIST:
        cells = [None, [], [None], *([member] for member in pool), *([a, b] for a in pool for b in pool)]
    if kind is ColumnType.FLOAT:
        cells += [math.nan, math.inf, -math.inf]
    catalogue = make_catalogue({column: cells}, {column: kind})
    masks = RowMasks(catalogue.frame, catalogue.schema, len(catalogue))
    for operator in operators(kind):
        operands: list[tuple[Scalar, ...]] = [(value,) for value in pool]
        if operator in MANY:
            operands += [(), *itertools.product(pool, pool)]
        if operator is Operator.EXISTS:
            operands = [(True,), (False,)]
        for values in operands:
            predicate = Compare(column, operator, values)
            expected = [matches(predicate, catalogue.cells(row)) for row in range(len(catalogue))]
            assert masks.passing(predicate).tolist() == expected, predicate


@settings(max_examples=300)
@given(catalogues(), predicates())
def test_masks_say_what_the_truthful_reading_says(catalogue: Catalogue, predicate: Predicate) -> None:
    expected = [matches(predicate, catalogue.cells(row)) for row in range(len(catalogue))]
    assert RowMasks(catalogue.frame, catalogue.schema, len(catalogue)).passing(predicate).tolist() == expected


@given(documents())
def test_a_parsed_filter_survives_the_wire(document: dict[str, Any]) -> None:
    predicate = parse_filter(document, SCHEMA)
    message = Filter.FromString(filter_to_wire(predicate, SCHEMA).SerializeToString())
    assert filter_from_wire(message, SCHEMA) == predicate


@given(predicates())
def test_any_typed_predicate_survives_the_wire(predicate: Predicate) -> None:
    assert filter_from_wire(filter_to_wire(predicate, SCHEMA), SCHEMA) == predicate


def shuffled(predicate: Predicate, chance: random.Random) -> Predicate:
    """The same in another order, with some of it said twice."""
    match predicate:
        case AllOf(parts) | AnyOf(parts):
            again = [shuffled(part, chance) for part in (*parts, *parts[:1])]
            return type(predicate)(tuple(chance.sample(again, len(again))))
        case Negation(part):
            return Negation(shuffled(part, chance))
        case Compare(column, operator, values):
            return Compare(column, operator, tuple(chance.sample(values, len(values))))


@given(catalogues(), predicates(), predicates(), st.randoms())
def test_one_meaning_is_one_entry_of_the_cache_and_two_meanings_are_two(
    catalogue: Catalogue, predicate: Predicate, other: Predicate, chance: random.Random
) -> None:
    rows = RowMasks(catalogue.frame, catalogue.schema, len(catalogue))
    everywhere = np.ones(len(catalogue), np.bool_)
    cache = PassingCache()
    cache.put(predicate, 1, Passing(rows.passing(predicate), everywhere))
    cache.put(shuffled(predicate, chance), 1, Passing(rows.passing(predicate), everywhere))
    assert len(cache) == 1
    for asked in (predicate, shuffled(predicate, chance), other, shuffled(other, chance)):
        found = cache.get(asked, 1)
        if found is not None:
            assert found.rows_N.tolist() == rows.passing(asked).tolist()
        else:
            assert meaning(asked) != meaning(predicate)
    assert cache.get(predicate, 2) is None


@given(catalogues(), documents())
def test_not_is_the_complement_of_the_set(catalogue: Catalogue, document: dict[str, Any]) -> None:
    masks = RowMasks(catalogue.frame, catalogue.schema, len(catalogue))
    inside = masks.passing(parse_filter(document, SCHEMA))
    outside = masks.passing(parse_filter({"$not": document}, SCHEMA))
    assert (inside ^ outside).all()
