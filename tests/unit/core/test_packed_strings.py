"""Packed strings read as the list that they were made of, and places as the dict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clozerec_core.packed_strings import PackedStrings, Places

distinct_texts = st.lists(st.text(max_size=6), unique=True, max_size=200)


@given(st.lists(st.text()))
def test_packed_strings_are_the_list_that_they_were_made_of(texts: list[str]) -> None:
    packed = PackedStrings(texts)
    assert list(packed) == texts
    assert [packed[place] for place in range(len(packed))] == texts
    assert [packed[place] for place in range(-len(texts), 0)] == texts
    assert (packed[1:3], packed[::-1]) == (texts[1:3], texts[::-1])


@given(distinct_texts, st.lists(st.text(max_size=6)))
def test_places_are_found_as_in_a_dict(texts: list[str], others: list[str]) -> None:
    of = {text: place for place, text in enumerate(texts)}
    places = Places(PackedStrings(texts))
    assert [places.of(text) for text in texts + others] == [of.get(text) for text in texts + others]


def test_a_string_that_comes_twice_is_refused() -> None:
    with pytest.raises(AssertionError, match="distinct"):
        Places(PackedStrings(["a", "b", "a"]))


def test_a_place_beyond_the_end_is_an_index_error() -> None:
    for place in (2, -3):
        with pytest.raises(IndexError):
            PackedStrings(["a", "b"])[place]
