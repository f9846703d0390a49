"""The retriever's answers on a shelf of five films, and how it refuses what it cannot answer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import make_catalogue, write_bundle

from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import BadRequest, BundleMismatch, UnknownItem
from clozerec_core.predicate import AnyOf, Compare, Operator
from clozerec_retriever.retriever import Found, Retriever, Selection
from clozerec_retriever.shelf import Shelf

SCHEMA = {"title": ColumnType.STRING, "year": ColumnType.INTEGER}
ALIEN, BRAZIL, CUBE, DUNE, EMPTY = "alien", "brazil", "cube", "dune", "empty"
IDS = [ALIEN, BRAZIL, CUBE, DUNE, EMPTY]
VECTORS = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0], [0, 0]], np.float32)
CONTENT = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1], [0, 0, 0]], np.float32)
NEW = Compare("year", Operator.GTE, (1990,))


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    columns = {"title": ["Alien", "Brazil", "Cube", "Dune", None], "year": [1979, 1985, 1997, 2021, None]}
    catalogue = make_catalogue(columns, SCHEMA, IDS)
    out: Path = tmp_path_factory.mktemp("shelf")
    return Retriever.open(write_bundle(out, catalogue, VECTORS, [1, 4, 0, 2, 3], CONTENT))


def ids(found: Found) -> list[str]:
    return [IDS[row] for row in found.ranking.rows]


def the_field(refused: pytest.ExceptionInfo[BadRequest]) -> tuple[str, str]:
    (violation,) = refused.value.violations
    return violation.field, violation.description


def test_search_by_a_vector(retriever: Retriever) -> None:
    found = retriever.search_by_vector([0.0, 1.0], Selection(top_k=3))
    assert ids(found) == [CUBE, BRAZIL, ALIEN]
    assert found.ranking.scores.tolist() == [1.0, 0.6, 0.0]
    assert not found.exhausted


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e30])
def test_a_vector_of_any_length_is_normalised_first(retriever: Retriever, length: float) -> None:
    found = retriever.search_by_vector([0.0, length], Selection(top_k=2))
    assert found.ranking.scores.tolist() == [1.0, 0.6]


def test_search_by_a_stored_item_leaves_itself_out(retriever: Retriever) -> None:
    found = retriever.search_by_item(ALIEN, Selection(top_k=2))
    assert ids(found) == [BRAZIL, CUBE]


def test_top_k_zero_means_the_bundles_default(retriever: Retriever) -> None:
    assert ids(retriever.popular(Selection())) == [BRAZIL, EMPTY, DUNE]


def test_filters_and_exclusions_come_before_ranking(retriever: Retriever) -> None:
    found = retriever.search_by_vector([1.0, 0.0], Selection(top_k=2, where=NEW))
    assert ids(found) == [CUBE, DUNE]
    found = retriever.search_by_vector([1.0, 0.0], Selection(top_k=2, exclude_item_ids=[ALIEN, "nobody", ALIEN]))
    assert ids(found) == [BRAZIL, CUBE]
    assert ids(retriever.popular(Selection(top_k=2, where=NEW, exclude_item_ids=[DUNE]))) == [CUBE]


def test_fewer_than_asked_for_is_an_answer_and_says_so(retriever: Retriever) -> None:
    found = retriever.search_by_vector([1.0, 0.0], Selection(top_k=3, where=NEW))
    assert len(found.ranking) == 2
    assert found.exhausted
    nothing = retriever.popular(Selection(where=AnyOf(())))
    assert len(nothing.ranking) == 0
    assert nothing.exhausted


def test_exclusions_of_one_request_do_not_leak_into_the_next(retriever: Retriever) -> None:
    retriever.popular(Selection(where=NEW, exclude_item_ids=[DUNE]))
    assert ids(retriever.popular(Selection(where=NEW))) == [DUNE, CUBE]


def test_an_item_without_a_vector_is_popular_at_most(retriever: Retriever) -> None:
    assert EMPTY not in ids(retriever.search_by_vector([1.0, 0.0], Selection(top_k=5)))
    assert EMPTY in ids(retriever.popular(Selection(top_k=5)))
    found = retriever.search_by_item(EMPTY, Selection())
    assert found.vectorless_item
    assert ids(found) == []


def test_an_unknown_item_is_not_found(retriever: Retriever) -> None:
    with pytest.raises(UnknownItem, match='"Alien" is unknown'):
        retriever.search_by_item("Alien", Selection())


def test_another_bundle_is_refused_and_the_empty_name_means_this_one(retriever: Retriever) -> None:
    shelf = Shelf(retriever)
    assert shelf.get("") is shelf.get("tiny") is retriever
    with pytest.raises(BundleMismatch, match='"other" is not loaded; the current one is "tiny"'):
        shelf.get("other")


def test_top_k_over_a_thousand_is_refused_never_clamped(retriever: Retriever) -> None:
    retriever.popular(Selection(top_k=1_000))
    for search in (
        lambda selection: retriever.popular(selection),
        lambda selection: retriever.search_by_item(ALIEN, selection),
        lambda selection: retriever.search_by_vector([1.0, 0.0], selection),
    ):
        with pytest.raises(BadRequest) as refused:
            search(Selection(top_k=1_001))
        field, description = the_field(refused)
        assert field == "top_k"
        assert "1,000, not 1,001" in description


@pytest.mark.parametrize(
    ("intent", "says"),
    [
        ([1.0], "expected 2 numbers"),
        ([1.0, 0.0, 0.0], "not 3"),
        ([math.nan, 1.0], "finite"),
        ([1.0, -math.inf], "finite"),
        ([0.0, 0.0], "direction"),
        ([1e-30, 0.0], "direction"),
    ],
)
def test_a_vector_that_is_none_of_this_space_is_refused(retriever: Retriever, intent: list[float], says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        retriever.search_by_vector(intent, Selection())
    field, description = the_field(refused)
    assert field == "intent"
    assert says in description


def test_metadata_fields(retriever: Retriever) -> None:
    assert retriever.metadata_fields([]) == ("title", "year")
    assert retriever.metadata_fields(["year", "year"]) == ("year",)
    with pytest.raises(BadRequest) as refused:
        retriever.metadata_fields(["year", "titel", "meta.title"])
    assert [violation.field for violation in refused.value.violations] == ["metadata_fields[1]", "metadata_fields[2]"]
    assert 'did you mean "title"?' in refused.value.violations[0].description
    with pytest.raises(BadRequest, match="at most 256"):
        retriever.metadata_fields(["year"] * 257)


def test_stored_items(retriever: Retriever) -> None:
    live = retriever.live
    assert [live.row_of(item_id) for item_id in (DUNE, "nobody", ALIEN)] == [3, None, 0]
    assert live.content(1, None).tolist() == [4, 5, 6]
    assert live.content(4, None).tolist() == []
