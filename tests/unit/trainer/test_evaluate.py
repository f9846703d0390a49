from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clozerec_core.errors import ClozerecError
from clozerec_trainer.data import Log
from clozerec_trainer.evaluate import Judge, ScoreCases, rank_of, top_rows
from clozerec_trainer.metrics import NO_ITEM, NOT_RANKED, summarise
from clozerec_trainer.payload import parse_payload
from clozerec_trainer.splits import Part, split_log

PAYLOAD = parse_payload(
    {"interactions": "i.csv", "user_column": "u", "item_column": "i", "timestamp_column": "t"}, Path("/data")
)
NUM_ITEMS = 6
HISTORIES = ([0, 1, 2, 3], [0, 1, 3, 2], [0, 2, 4, 1])
"""Training events are 0, 1 · 0, 1 · 0, 2; nobody ever took item 5."""


def judge_of(*histories: list[int], part: Part = "test", exclude_seen: bool = True) -> Judge:
    rows = np.array([row for each in histories for row in each], np.int64)
    starts = np.cumsum([0, *map(len, histories)])
    log = Log([str(u) for u in range(len(histories))], starts, rows, rows * 0, np.ones(len(rows), np.float32))
    return Judge(log, split_log(log, PAYLOAD).cases(part), max(NUM_ITEMS, rows.max() + 1), exclude_seen)


def constant_scores(scores: list[float]) -> ScoreCases:
    return lambda cases: np.tile(np.array(scores, np.float32), (len(cases), 1))


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


@given(
    scores=st.lists(
        st.lists(st.sampled_from([-np.inf, -2.5, -1.0, -0.0, 0.0, 0.5, 3.0]), min_size=5, max_size=5),
        min_size=1,
        max_size=4,
    ),
    num_top=st.integers(1, 7),
)
def test_answers_are_the_best_scores_with_ties_by_row(scores: list[list[float]], num_top: int) -> None:
    expected = []
    for each in scores:
        order = sorted((row for row in range(5) if each[row] != -np.inf), key=lambda row: (-each[row], row))
        expected.append((order + [NO_ITEM] * num_top)[:num_top])
    assert top_rows(np.array(scores, np.float32), num_top).tolist() == expected


def test_seen_items_and_items_without_events_are_not_ranked() -> None:
    # Left for user 0 are 3 and 4, for user 1 are 2 and 4, for user 2 are 1 and 3; item 5 scores best but has no event.
    ranking = judge_of(*HISTORIES).rank(constant_scores([9, 1, 1, 2, 3, 9]), num_top=2)
    assert ranking.ranks_C.tolist() == [2, 2, 2]
    assert ranking.top_CK.tolist() == [[4, 3], [4, 2], [3, 1]]


def test_with_seen_items_kept_they_compete() -> None:
    judge = judge_of(*HISTORIES, exclude_seen=False)
    assert judge.rank(constant_scores([9, 1, 1, 2, 3, 9])).ranks_C.tolist() == [3, 5, 4]


def test_a_repeated_target_counts_as_missed_where_seen_items_are_never_returned() -> None:
    histories = [0, 1, 2, 0], [1, 2, 0, 2]
    scores = constant_scores([1] * NUM_ITEMS)
    assert judge_of(*histories).rank(scores).ranks_C.tolist() == [NOT_RANKED, NOT_RANKED]
    assert judge_of(*histories, exclude_seen=False).rank(scores).ranks_C.tolist() == [1, 3]


def test_validation_reads_nothing_of_the_test() -> None:
    judge = judge_of(*HISTORIES, part="validation")
    # User 0 has seen 0 and 1 and is asked for 2; 3, 4 and 2 compete.
    assert judge.rank(constant_scores([9, 1, 1, 2, 3, 9])).ranks_C[0] == 3


def test_large_catalogues_are_ranked_in_small_chunks_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [[user % 5, (user + 1) % 5, (user + 2) % 5] for user in range(40)]
    scores = constant_scores([3, 1, 4, 1, 5, 0])
    whole = judge_of(*histories).rank(scores, 3)
    monkeypatch.setattr("clozerec_trainer.evaluate._CELLS_AT_A_TIME", 7 * NUM_ITEMS)
    chunked = judge_of(*histories).rank(scores, 3)
    assert chunked.ranks_C.tolist() == whole.ranks_C.tolist()
    assert chunked.top_CK.tolist() == whole.top_CK.tolist()


def test_nobody_held_out_gives_no_figures() -> None:
    assert judge_of([0, 1], [1, 2]).metrics(constant_scores([1] * NUM_ITEMS)) == {}
