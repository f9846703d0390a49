"""The window around a mask against its definition: the items nearest to the mask, the past first among equals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clozerec_core.interactions import newest_distinct, window_around


@given(st.data(), st.integers(0, 40), st.integers(1, 12))
def test_the_window_is_the_items_nearest_to_the_mask(data: st.DataObject, sequence_len: int, max_len: int) -> None:
    mask_index = data.draw(st.integers(0, sequence_len))

    def distance(position: int) -> tuple[int, bool]:
        in_the_future = position >= mask_index
        return (position - mask_index + 1 if in_the_future else mask_index - position), in_the_future

    nearest = sorted(sorted(range(sequence_len), key=distance)[:max_len])
    window = window_around(sequence_len, mask_index, max_len)
    assert list(range(window.start, window.stop)) == nearest
    assert window.mask_position == sum(position < mask_index for position in nearest)


@given(st.integers(0, 40), st.integers(1, 12))
def test_no_mask_index_means_after_the_last_item(sequence_len: int, max_len: int) -> None:
    assert window_around(sequence_len, None, max_len) == window_around(sequence_len, sequence_len, max_len)


@given(st.lists(st.integers(0, 6), max_size=20), st.integers(0, 8))
def test_newest_distinct_is_the_order_of_last_appearance(sequence: list[int], limit: int) -> None:
    last_place = {member: place for place, member in enumerate(sequence)}
    by_age = sorted(last_place, key=lambda member: -last_place[member])
    assert newest_distinct(sequence, limit) == by_age[:limit]
