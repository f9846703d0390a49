"""Popularity: the order that needs no vector."""

from __future__ import annotations

import numpy as np

from clozerec_retriever.popularity import Popularity


def test_the_score_is_the_share_of_the_largest_count() -> None:
    ranking = Popularity(np.array([2, 8, 0, 4])).best(10, None)
    assert ranking.rows.tolist() == [1, 3, 0, 2]
    assert ranking.scores.tolist() == [1.0, 0.5, 0.25, 0.0]


def test_equal_scores_are_ordered_by_row_also_where_only_rounding_makes_them_equal() -> None:
    assert Popularity(np.array([3, 7, 3, 7])).best(4, None).rows.tolist() == [1, 3, 0, 2]
    assert Popularity(np.array([1, 2, 1_000_000])).best(3, None).rows.tolist() == [2, 0, 1]


def test_only_items_that_pass_are_listed_and_as_many_as_asked_for() -> None:
    popularity = Popularity(np.array([5, 4, 3, 2, 1]))
    assert popularity.best(2, np.array([False, True, False, True, True])).rows.tolist() == [1, 3]
    assert popularity.best(2, np.zeros(5, np.bool_)).rows.tolist() == []


def test_a_catalogue_that_nobody_has_touched_is_listed_by_row_with_score_zero() -> None:
    ranking = Popularity(np.array([0, 0, 0])).best(2, None)
    assert ranking.rows.tolist() == [0, 1]
    assert ranking.scores.tolist() == [0.0, 0.0]
