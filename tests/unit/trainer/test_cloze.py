from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clozerec_core.catalogue import SpecialRows
from clozerec_trainer.cloze import causal_batch, cloze_batch

SPECIAL = SpecialRows(50)
PAD, MASK = SPECIAL.pad, SPECIAL.mask


def windows(lengths: list[int], num_positions: int) -> Tensor:
    rows = torch.full((len(lengths), num_positions), PAD)
    for row, length in zip(rows, lengths, strict=True):
        row[num_positions - length :] = torch.arange(length)
    return rows


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    masking_ratio=st.floats(0.01, 0.99),
    last_item_ratio=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_every_window_hides_something_and_only_items(
    lengths: list[int], masking_ratio: float, last_item_ratio: float, seed: int
) -> None:
    rows = windows(lengths, 9)
    weights = torch.rand(rows.shape)
    generator = torch.Generator().manual_seed(seed)
    batch = cloze_batch(rows, weights, SPECIAL, masking_ratio, last_item_ratio, generator)
    assert batch.asked_BL.any(dim=1).all()
    assert not (batch.asked_BL & (rows == PAD)).any()
    assert torch.equal(batch.rows_BL == MASK, batch.asked_BL)
    assert torch.equal(batch.rows_BL[~batch.asked_BL], rows[~batch.asked_BL])
    assert torch.equal(batch.targets_M, rows[batch.asked_BL])
    assert torch.equal(batch.weights_M, weights[batch.asked_BL])


def test_about_the_asked_share_is_hidden() -> None:
    rows = windows([20] * 500, 20)
    batch = cloze_batch(rows, torch.ones(rows.shape), SPECIAL, 0.3, 0.0, torch.Generator().manual_seed(1))
    assert abs(batch.asked_BL.float().mean().item() - 0.3) < 0.02


def test_about_the_asked_share_of_windows_hides_the_last_item_only() -> None:
    rows = windows([20] * 500, 20)
    batch = cloze_batch(rows, torch.ones(rows.shape), SPECIAL, 0.5, 0.25, torch.Generator().manual_seed(1))
    last_only = (batch.asked_BL.sum(dim=1) == 1) & batch.asked_BL[:, -1]
    assert abs(last_only.float().mean().item() - 0.25) < 0.06


def test_causal_batches_ask_for_the_next_item_everywhere_and_for_the_last_at_the_mask_too() -> None:
    batch = causal_batch(torch.tensor([[PAD, 3, 4, 5]]), torch.tensor([[0.0, 0.3, 0.4, 0.5]]), SPECIAL)
    assert batch.causal
    assert batch.rows_BL.tolist() == [[PAD, 3, 4, MASK]]
    assert batch.asked_BL.tolist() == [[False, True, True, True]]
    assert batch.targets_M.tolist() == [4, 5, 5]
    assert torch.allclose(batch.weights_M, torch.tensor([0.4, 0.5, 0.5]))
