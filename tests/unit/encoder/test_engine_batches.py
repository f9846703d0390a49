"""How texts of many lengths are cut into runs of the text model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clozerec_encoder.text import _batches


@given(st.lists(st.integers(1, 256), min_size=1, max_size=60), st.integers(1, 1024))
def test_every_text_runs_once_and_no_batch_is_larger_than_its_budget(lengths: list[int], budget: int) -> None:
    batches = list(_batches(lengths, budget))
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[position] for position in batch)
        assert padded <= budget or len(batch) == 1
