"""Windows around a mask and distinct members: the cases that a person would try first."""

from __future__ import annotations

import pytest

from clozerec_core.interactions import Window, newest_distinct, window_around, without_repeats


@pytest.mark.parametrize(
    ("sequence_len", "mask_index", "max_len", "window"),
    [
        (0, None, 5, Window(0, 0, 0)),
        (3, None, 5, Window(0, 3, 3)),
        (9, None, 5, Window(4, 9, 5)),
        (9, 9, 5, Window(4, 9, 5)),
        (9, 0, 5, Window(0, 5, 0)),
        (9, 4, 4, Window(2, 6, 2)),
        (9, 4, 5, Window(1, 6, 3)),  # the odd one goes to the past
        (9, 1, 5, Window(0, 5, 1)),  # a short past leaves its share to the future
        (9, 8, 5, Window(4, 9, 4)),  # and the other way round
        (9, 4, 1, Window(3, 4, 1)),
        (9, 0, 1, Window(0, 1, 0)),
    ],
)
def test_the_window_holds_the_items_nearest_to_the_mask(
    sequence_len: int, mask_index: int | None, max_len: int, window: Window
) -> None:
    assert window_around(sequence_len, mask_index, max_len) == window


def test_newest_distinct_counts_from_the_end_and_each_member_once() -> None:
    assert newest_distinct(["a", "b", "a", "c", "c"], 10) == ["c", "a", "b"]
    assert newest_distinct(["a", "b", "a", "c", "c"], 2) == ["c", "a"]
    assert newest_distinct(["a", "b"], 0) == []
    assert newest_distinct([], 3) == []


def test_without_repeats_keeps_the_first_of_each() -> None:
    assert without_repeats(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]
