from __future__ import annotations

import math

import numpy as np
import pytest

from clozerec_core.errors import ClozerecError
from clozerec_trainer.baselines import evaluate_popularity, train_counts
from clozerec_trainer.data import Log
from clozerec_trainer.evaluate import NOT_RANKED, Judge, rank_of, summarise
from clozerec_trainer.sequences import LeaveOneOut

NUM_ITEMS = 6
HISTORIES = ([0, 1, 2, 3], [0, 1, 3, 2], [0, 2, 4, 1])
"""Training events are 0, 1 · 0, 1 · 0, 2; nobody ever took item 5."""


def split_of(*histories: list[int]) -> LeaveOneOut:
    rows = np.array([row for each in histories for row in each], np.int64)
    starts = np.cumsum([0, *map(len, histories)])
    log = Log([str(u) for u in range(len(histories))], starts, rows, rows * 0, np.ones(len(rows), np.float32))
    return LeaveOneOut(log)


def constant_scores(scores: list[float]):  # type: ignore[no-untyped-def]
    return lambda chunk: np.tile(np.array(scores, np.float32), (len(range(*chunk.indices(len(HISTORIES)))), 1))


def test_metrics_equal_a_hand_computed_example() -> None:
    metrics = summarise(np.array([1, 3, 11, NOT_RANKED]), [1, 5, 10])
    assert metrics["hr@1"] == 1 / 4
    assert metrics["hr@5"] == metrics["hr@10"] == 2 / 4
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / math.log2(4)) / 4)
    assert metrics["mrr@10"] == pytest.approx((1 + 1 / 3) / 4)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)


def test_ties_go_by_row() -> None:
    scores = np.array([[1, 2, 2, 2, 0]] * 3, np.float32)
    assert rank_of(np.array([1, 2, 3]), scores).tolist() == [1, 2, 3]


def test_what_cannot_be_returned_has_no_rank() -> None:
    assert rank_of(np.array([0]), np.array([[-np.inf, 1.0]], np.float32)).tolist() == [NOT_RANKED]


def test_scores_that_are_no_numbers_are_an_error_and_no_first_rank() -> None:
    with pytest.raises(ClozerecError, match="not numbers"):
        rank_of(np.array([0]), np.array([[np.nan, 1.0]], np.float32))


def test_seen_items_and_items_without_events_are_not_ranked() -> None:
    judge = Judge(split_of(*HISTORIES), "test", NUM_ITEMS, exclude_seen=True)
    # Left for user 0 are 3 and 4, for user 1 are 2 and 4, for user 2 are 1 and 3; item 5 scores best but has no event.
    assert judge.ranks(constant_scores([9, 1, 1, 2, 3, 9])).tolist() == [2, 2, 2]


def test_with_seen_items_kept_they_compete() -> None:
    judge = Judge(split_of(*HISTORIES), "test", NUM_ITEMS, exclude_seen=False)
    assert judge.ranks(constant_scores([9, 1, 1, 2, 3, 9])).tolist() == [3, 5, 4]


def test_a_repeated_target_counts_as_missed_where_seen_items_are_never_returned() -> None:
    split = split_of([0, 1, 2, 0], [1, 2, 0, 2])
    scores = lambda chunk: np.ones((2, 3), np.float32)  # noqa: E731
    assert Judge(split, "test", 3, exclude_seen=True).ranks(scores).tolist() == [NOT_RANKED, NOT_RANKED]
    assert Judge(split, "test", 3, exclude_seen=False).ranks(scores).tolist() == [1, 3]


def test_validation_reads_nothing_of_the_test() -> None:
    judge = Judge(split_of(*HISTORIES), "validation", NUM_ITEMS, exclude_seen=True)
    # User 0 has seen 0 and 1 and is asked for 2; 3, 4 and 2 compete.
    assert judge.ranks(constant_scores([9, 1, 1, 2, 3, 9]))[0] == 3


def test_popularity_counts_training_events_only() -> None:
    split = split_of(*HISTORIES)
    assert train_counts(split, NUM_ITEMS).tolist() == [3, 2, 1, 0, 0, 0]


def test_popularity_is_judged_like_any_model() -> None:
    metrics = evaluate_popularity(Judge(split_of(*HISTORIES), "test", NUM_ITEMS, exclude_seen=True))
    # Targets 3, 2, 1 against {3, 4}, {2, 4}, {1, 3}: each is ahead, by row or by count.
    assert metrics["hr@1"] == 1


def test_nobody_held_out_gives_no_figures() -> None:
    judge = Judge(split_of([0, 1], [1, 2]), "test", 3, exclude_seen=True)
    assert evaluate_popularity(judge) == {}
