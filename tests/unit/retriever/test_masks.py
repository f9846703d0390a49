"""Row masks: what is prepared, what is kept. Their meaning is held to the truthful reading in tests/property."""

from __future__ import annotations

import gc
import weakref

import polars as pl
import pytest
from bundle_factory import make_catalogue

from clozerec_core.catalogue import Catalogue, ColumnType
from clozerec_core.predicate import EVERYTHING, AnyOf, Compare, Negation, Operator
from clozerec_retriever.masks import MAX_CACHED_TEXT, RowMasks

SCHEMA = {"brand": ColumnType.STRING, "year": ColumnType.INTEGER, "genres": ColumnType.STRING_LIST}


def masks_of(catalogue: Catalogue) -> RowMasks:
    return RowMasks(catalogue.frame, catalogue.schema, len(catalogue))


@pytest.fixture
def masks() -> RowMasks:
    columns = {
        "brand": ["a", None, "b", "a"],
        "year": [1990, 2000, None, 2010],
        "genres": [["x", "y"], [], None, ["y", "y"]],
    }
    return masks_of(make_catalogue(columns, SCHEMA))


@pytest.mark.parametrize(
    ("column", "operator", "values", "passing"),
    [
        ("brand", Operator.EQ, ("a",), [0, 3]),
        ("brand", Operator.NE, ("a",), [2]),
        ("brand", Operator.IN, ("nowhere",), []),
        ("brand", Operator.EXISTS, (False,), [1]),
        ("year", Operator.GTE, (2000,), [1, 3]),
        ("year", Operator.LT, (1,), []),
        ("year", Operator.NIN, (2000, 2010), [0]),
        ("genres", Operator.EQ, ("y",), [0, 3]),
        ("genres", Operator.NE, ("x",), [1, 3]),
        ("genres", Operator.ALL, ("x", "y"), [0]),
        ("genres", Operator.ALL, (), [0, 1, 2, 3]),
    ],
)
def test_a_condition_passes_the_rows_that_a_person_would_name(
    masks: RowMasks, column: str, operator: Operator, values: tuple[str | int, ...], passing: list[int]
) -> None:
    assert masks.passing(Compare(column, operator, values)).nonzero()[0].tolist() == passing


def test_combinations_of_nothing(masks: RowMasks) -> None:
    assert masks.passing(EVERYTHING).all()
    assert not masks.passing(AnyOf(())).any()
    assert masks.passing(Negation(AnyOf(()))).all()


def test_a_column_without_any_value_is_missing_everywhere() -> None:
    nothing = {"brand": [None, None], "year": [None, None], "genres": [None, []]}
    masks = masks_of(make_catalogue(nothing, SCHEMA))
    assert not masks.passing(Compare("brand", Operator.NE, ("a",))).any()
    assert not masks.passing(Compare("year", Operator.LTE, (0,))).any()
    assert masks.passing(Compare("genres", Operator.NE, ("a",))).tolist() == [False, True]


def test_a_mask_is_the_callers_own(masks: RowMasks) -> None:
    where = Compare("brand", Operator.EQ, ("a",))
    first = masks.passing(where)
    first[:] = False
    assert masks.passing(where).tolist() == [True, False, False, True]


def test_numbers_beyond_64_bits_are_beyond_all_that_a_column_holds(masks: RowMasks) -> None:
    assert masks.passing(Compare("year", Operator.LT, (2**70,))).tolist() == [True, True, False, True]
    assert not masks.passing(Compare("year", Operator.GT, (2**70,))).any()
    assert masks.passing(Compare("year", Operator.GT, (-(2**70),))).tolist() == [True, True, False, True]
    assert not masks.passing(Compare("year", Operator.EQ, (2**70,))).any()


def test_a_column_stays_usable_after_its_presence_was_asked_for(masks: RowMasks) -> None:
    present = Compare("brand", Operator.EXISTS, (True,))
    assert masks.passing(present).tolist() == [True, False, True, True]
    assert masks.passing(AnyOf((present, EVERYTHING))).all()
    assert masks.passing(present).tolist() == [True, False, True, True]


def test_masks_of_filters_with_very_long_texts_are_not_kept(masks: RowMasks) -> None:
    long = Negation(AnyOf((Compare("brand", Operator.EQ, ("x" * (MAX_CACHED_TEXT + 1),)),)))
    assert masks.passing(long).all()
    assert masks.cache_info().currsize == 0
    masks.passing(EVERYTHING)
    assert masks.cache_info().currsize == 1


def test_masks_that_nobody_uses_any_more_go_without_the_garbage_collector() -> None:
    """Each batch of changes makes some, and the collector comes by once in many thousand."""
    masks = RowMasks(pl.DataFrame({"year": [1999, 2001]}), {"year": ColumnType.INTEGER}, 2)
    masks.passing(Compare("year", Operator.EQ, (1999,)))
    gone = weakref.ref(masks)
    gc.disable()
    try:
        del masks
        assert gone() is None
    finally:
        gc.enable()
