from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clozerec.v1 import recommender_pb2
from clozerec_core.card import render_card, scored_item


@given(st.integers(1, 3), st.floats(-1, 1, width=32), st.sampled_from([1, 50, 126, 127, 128, 16_000, 16_384, 70_000]))
def test_items_as_bytes_are_those_that_protobuf_writes(num_items: int, score: float, text_len: int) -> None:
    card = render_card("some-id", "A name", {"title": "x" * text_len, "year": 1999, "genre": None})
    response = recommender_pb2.RecommendResponse(bundle_id="b")
    response.MergeFromString(scored_item(card, score, recommender_pb2.SOURCE_TEXT) * num_items)

    expected = recommender_pb2.RecommendResponse(bundle_id="b")
    for _ in range(num_items):
        item = expected.items.add(score=score, source=recommender_pb2.SOURCE_TEXT)
        item.MergeFromString(card)
    assert response == expected


@pytest.mark.parametrize("length", [127 - 7, 128 - 7])
def test_a_size_of_one_byte_more_is_written_in_two(length: int) -> None:
    """A card of `length` bytes, with 5 for its score and 2 for its source."""
    written = scored_item(b"x" * length, 0.5, recommender_pb2.SOURCE_MODEL)
    assert len(written) == 1 + (1 if length + 7 < 128 else 2) + length + 7
