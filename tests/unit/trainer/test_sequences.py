from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clozerec_core.catalogue import SpecialRows
from clozerec_core.errors import UsageError
from clozerec_trainer.data import Log
from clozerec_trainer.sequences import cut_windows, last_windows

SPECIAL = SpecialRows(100)
PAD, MASK = SPECIAL.pad, SPECIAL.mask


def log_of(*histories: list[int]) -> Log:
    """Rows of each user, one event a second."""
    lengths = [len(each) for each in histories]
    return Log(
        user_ids=[str(u) for u in range(len(histories))],
        starts_U1=np.cumsum([0, *lengths]),
        rows_E=np.array([row for each in histories for row in each], np.int64),
        times_us_E=np.concatenate([np.arange(n) * 10**6 for n in lengths]),
        weights_E=np.ones(sum(lengths), np.float32),
    )


def windows_of(log: Log, num_positions: int, stride: int | None) -> list[list[int]]:
    windows = cut_windows(log, log.starts_U1[1:], SPECIAL, num_positions, stride)
    return [[row for row in rows if row != PAD] for rows in windows.rows_ST.tolist()]


def test_windows_slide_back_from_the_newest_event() -> None:
    assert windows_of(log_of([1, 2, 3, 4, 5, 6, 7]), 4, 2) == [[4, 5, 6, 7], [2, 3, 4, 5], [1, 2, 3]]


def test_the_last_window_is_one_for_each_user() -> None:
    assert windows_of(log_of([1, 2, 3, 4, 5], [6, 7]), 3, None) == [[3, 4, 5], [6, 7]]


def test_windows_are_padded_on_the_left_and_padding_weighs_nothing() -> None:
    log = log_of([1, 2])
    windows = cut_windows(log, log.starts_U1[1:], SPECIAL, 4, 2)
    assert windows.rows_ST.tolist() == [[PAD, PAD, 1, 2]]
    assert windows.weights_ST.tolist() == [[0, 0, 1, 1]]


def test_a_log_without_any_sequence_is_refused() -> None:
    with pytest.raises(UsageError, match="no user has two events to train on"):
        windows_of(log_of([1], [2]), 4, 2)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5).filter(lambda lengths: max(lengths) > 1),
    num_positions=st.integers(2, 12),
    stride=st.integers(1, 12),
)
def test_windows_cover_every_event_of_every_sequence_in_order(
    lengths: list[int], num_positions: int, stride: int
) -> None:
    bounds = np.cumsum([0, *lengths]).tolist()
    histories = [list(range(start % 100, start % 100 + n)) for start, n in zip(bounds, lengths, strict=False)]
    histories = [[row % 100 for row in each] for each in histories]
    windows = windows_of(log_of(*histories), num_positions, stride)
    assert all(2 <= len(each) <= num_positions for each in windows)
    longest = [each for each in histories if len(each) > 1]
    assert all(any(each == history[i : i + len(each)] for history in longest for i in range(41)) for each in windows)
    if stride <= num_positions - 1:
        assert {row for each in longest for row in each} == {row for each in windows for row in each}


def test_serving_windows_hold_the_newest_items_and_the_mask() -> None:
    log = log_of([1, 2, 3, 4], [7, 8, 9])
    rows = last_windows(log, np.array([3, 6]), np.array([0, 1]), SPECIAL, 3)
    assert rows.tolist() == [[2, 3, MASK], [7, 8, MASK]]
    rows = last_windows(log, np.array([2, 5]), np.array([0, 1]), SPECIAL, 3)
    assert rows.tolist() == [[1, 2, MASK], [PAD, 7, MASK]]
