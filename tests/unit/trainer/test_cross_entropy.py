from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clozerec_trainer import cross_entropy
from clozerec_trainer.cross_entropy import full_cross_entropy

NUM_ITEMS, DIM = 11, 4


def plainly(intents_MD: Tensor, items_AD: Tensor, right_M: Tensor, weights_M: Tensor) -> Tensor:
    losses_M = F.cross_entropy(intents_MD @ items_AD.T, right_M, reduction="none")
    return (losses_M * weights_M).sum() / weights_M.sum()


@pytest.mark.parametrize("num_answers", [1, 7, 64])
@pytest.mark.parametrize("chunk_logits", [1, 3 * NUM_ITEMS, 1 << 20])
def test_loss_and_gradients_are_those_of_the_plain_formula(
    num_answers: int, chunk_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK_LOGITS", chunk_logits)
    generator = torch.Generator().manual_seed(num_answers)
    intents_MD = 5 * torch.randn(num_answers, DIM, generator=generator)
    items_AD = torch.randn(NUM_ITEMS, DIM, generator=generator)
    right_M = torch.randint(NUM_ITEMS, (num_answers,), generator=generator)
    weights_M = torch.rand(num_answers, generator=generator)
    outcomes = []
    for loss_of in (full_cross_entropy, plainly):
        intents, items = intents_MD.clone().requires_grad_(), items_AD.clone().requires_grad_()
        loss = loss_of(intents, items, right_M, weights_M)
        (3 * loss).backward()
        outcomes.append((loss.detach(), intents.grad, items.grad))
    torch.testing.assert_close(*outcomes)


def test_a_right_item_beyond_what_a_float_can_hold_has_its_true_loss() -> None:
    intents_MD, items_AD = torch.tensor([[200.0]]), torch.tensor([[1.0], [-1.0]])
    assert full_cross_entropy(intents_MD, items_AD, torch.tensor([1]), torch.ones(1)).item() == pytest.approx(400)


def test_an_answer_of_no_weight_moves_nothing() -> None:
    intents_MD = torch.randn(2, DIM, requires_grad=True)
    full_cross_entropy(intents_MD, torch.randn(5, DIM), torch.tensor([1, 2]), torch.tensor([1.0, 0.0])).backward()
    assert intents_MD.grad is not None
    assert intents_MD.grad[0].any()
    assert not intents_MD.grad[1].any()
