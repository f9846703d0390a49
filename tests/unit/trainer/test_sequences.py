from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clozerec_core.catalogue import SpecialRows
from clozerec_core.errors import UsageError
from clozerec_trainer.data import Log
from clozerec_trainer.sequences import WindowPlan, cut_windows, last_windows

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
    windows = cut_windows(log, log.starts_U1[1:], num_positions, stride)
    return [log.rows_E[start:stop].tolist() for start, stop in zip(windows.starts_S, windows.stops_S, strict=True)]


def test_windows_slide_back_from_the_newest_event() -> None:
    assert windows_of(log_of([1, 2, 3, 4, 5, 6, 7]), 4, 2) == [[4, 5, 6, 7], [2, 3, 4, 5], [1, 2, 3]]


def test_the_last_window_is_one_for_each_user() -> None:
    assert windows_of(log_of([1, 2, 3, 4, 5], [6, 7]), 3, None) == [[3, 4, 5], [6, 7]]


def test_windows_are_as_long_as_the_longest_padded_on_the_left_where_nothing_weighs() -> None:
    log = log_of([1, 2, 3], [4, 5], [6, 7])
    windows = cut_windows(log, log.starts_U1[1:], 4, 2)
    rows, weights = windows.lay_out(np.array([0, 1]), SPECIAL)
    assert rows.tolist() == [[1, 2, 3], [PAD, 4, 5]]
    assert weights.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert windows.lay_out(np.array([2, 1]), SPECIAL)[0].tolist() == [[6, 7], [4, 5]]
    assert windows.lay_out(np.array([2]), SPECIAL, 4)[0].tolist() == [[PAD, PAD, 6, 7]]


def test_only_what_stands_in_a_window_is_trained_on() -> None:
    log = log_of([1, 2, 3, 4], [5], [6, 7, 2])
    assert cut_windows(log, log.starts_U1[1:], 2, None).distinct_rows().tolist() == [2, 3, 4, 7]
    assert cut_windows(log, log.starts_U1[1:] - [0, 0, 1], 2, 1).distinct_rows().tolist() == [1, 2, 3, 4, 6, 7]


@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=60),
    batch_len=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_a_pass_takes_every_window_once_in_full_batches_of_similar_length(
    lengths: list[int], batch_len: int, seed: int
) -> None:
    log = log_of(*([0] * n for n in lengths))
    windows = cut_windows(log, log.starts_U1[1:], 12, None)
    num_steps = math.ceil(len(lengths) / batch_len)
    batches = windows.batches(num_steps, torch.Generator().manual_seed(seed))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert len(batches) == num_steps
    assert max(map(len, batches)) <= batch_len
    if len(batches) <= 32:
        spreads = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in batches)
        assert all(longest <= shortest for (_, longest), (shortest, _) in itertools.pairwise(spreads))


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


def test_shifted_windows_lie_later_and_the_newest_is_cut_off() -> None:
    log = log_of([1, 2, 3, 4, 5, 6, 7], [8, 9, 10])
    windows = cut_windows(log, log.starts_U1[1:], 4, 3, np.array([2, 2]))
    spans = [log.rows_E[start:stop].tolist() for start, stop in zip(windows.starts_S, windows.stops_S, strict=True)]
    assert spans == [[6, 7], [3, 4, 5, 6], [1, 2, 3], [8, 9, 10]]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5).filter(lambda lengths: max(lengths) > 1),
    num_positions=st.integers(2, 12),
    stride=st.integers(1, 11),
    seed=st.integers(0, 20),
)
def test_each_pass_shifts_the_windows_and_asks_for_all_but_first_and_perhaps_newest_events(
    lengths: list[int], num_positions: int, stride: int, seed: int
) -> None:
    log = log_of(*([0] * n for n in lengths))
    stride = min(stride, num_positions - 1)
    plan = WindowPlan(log, log.starts_U1[1:], num_positions, stride, is_shifted=True)
    windows = plan.windows(torch.Generator().manual_seed(seed))
    assert all(2 <= n <= num_positions for n in windows.lengths_S)
    asked = {
        event for start, stop in zip(windows.starts_S, windows.stops_S, strict=True) for event in range(start + 1, stop)
    }
    firsts = set(log.starts_U1[:-1].tolist())
    assert set(range(sum(lengths))) - firsts - asked <= {stop - 1 for stop in log.starts_U1[1:].tolist()}
    plain = WindowPlan(log, log.starts_U1[1:], num_positions, stride)
    assert plain.windows(torch.Generator().manual_seed(seed)).stops_S.tolist() == plain.windows().stops_S.tolist()


def test_serving_windows_hold_the_newest_items_and_the_mask() -> None:
    log = log_of([1, 2, 3, 4], [7, 8, 9])
    rows = last_windows(log, np.array([3, 6]), np.array([0, 1]), SPECIAL, 3)
    assert rows.tolist() == [[2, 3, MASK], [7, 8, MASK]]
    rows = last_windows(log, np.array([2, 5]), np.array([0, 1]), SPECIAL, 3)
    assert rows.tolist() == [[1, 2, MASK], [PAD, 7, MASK]]
