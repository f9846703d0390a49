"""The loss of a batch: cross-entropy of cosine logits against all items, or against sampled ones.

Only the items that a step touches are made into vectors: with the full softmax all that have training events, else
those in the batch and the negatives. Items without training events are never negatives, since nothing says that they
are wrong.

Shapes: B batch, L positions, M answers asked for, A items at hand, J negatives of a step, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clozerec_trainer.cloze import Batch
from clozerec_trainer.cross_entropy import full_cross_entropy
from clozerec_trainer.model import HybridBert4Rec

_NOTHING = -1e30
"""The logit of what does not count; of infinity the gradient would be no number where nothing else is there."""


@dataclass(frozen=True)
class Objective:
    """How the model is asked."""

    model: HybridBert4Rec
    trained_rows: Tensor
    """Sorted rows of the items with training events: what may be right or wrong."""
    negative_samples: int
    """0, or as many as there are items: the full softmax."""
    behaviour_dropout: float

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Weighted mean cross-entropy over the batch's answers; random draws come from the CPU generator."""
        negatives_J = self._negatives(generator)
        at_hand_A = self.trained_rows if negatives_J is None else self._rows_of(batch, negatives_J)
        kept_A1 = torch.rand(len(at_hand_A), 1, generator=generator).to(at_hand_A.device) >= self.behaviour_dropout
        input_AD = self.model.items_input(at_hand_A, kept_A1.float())
        output_AD = input_AD if self.model.tied else self.model.items_output(at_hand_A, kept_A1.float())

        index_BL = torch.searchsorted(at_hand_A, batch.rows_BL).clamp(max=len(at_hand_A) - 1)
        states = self.model.encode(batch.rows_BL, input_AD, index_BL, batch.causal, batch.padded)
        # Dividing the intents here instead of the many logits saves a quarter of a step; and dividing after masking
        # would give the learned temperature a gradient of infinity times zero.
        intents_MD = self.model.network.answer(states.at(batch.asked_BL)) / self.model.temperature
        target_M = torch.searchsorted(at_hand_A, batch.targets_M)
        if negatives_J is None:
            return full_cross_entropy(intents_MD, output_AD, target_M, batch.weights_M)
        wrong_J = torch.searchsorted(at_hand_A, negatives_J)
        losses_M = _sampled_losses(intents_MD, output_AD, target_M, wrong_J, len(self.trained_rows))
        loss: Tensor = (losses_M * batch.weights_M).sum() / batch.weights_M.sum()
        return loss

    def _negatives(self, generator: torch.Generator) -> Tensor | None:
        """Distinct rows drawn uniformly, the same for all answers of a step; None where all items are at hand.

        One product of matrices ranks shared ones, so that two thousand cost less than a hundred for each answer.
        """
        if self.negative_samples == 0 or self.negative_samples >= len(self.trained_rows):
            return None
        drawn_J = torch.randperm(len(self.trained_rows), generator=generator)[: self.negative_samples]
        rows_J: Tensor = self.trained_rows[drawn_J.to(self.trained_rows.device)]
        return rows_J

    def _rows_of(self, batch: Batch, negatives_J: Tensor) -> Tensor:
        """Sorted distinct rows of the items that the batch reads or ranks."""
        read = batch.rows_BL[batch.rows_BL < self.model.num_items]
        rows_A: Tensor = torch.unique(torch.cat([read, batch.targets_M, negatives_J]))
        return rows_A


def _sampled_losses(intents_MD: Tensor, output_AD: Tensor, target_M: Tensor, wrong_J: Tensor, num_items: int) -> Tensor:
    """-log softmax of each right item, where the sampled wrong items stand for all wrong ones, `[M]`.

    Each counts as often as there are wrong items to a sampled one, so that the sum in the softmax's denominator is that
    of the full softmax in expectation, and a temperature means the same with both.
    """
    is_right_MJ = wrong_J == target_M[:, None]
    num_wrong_M1 = (~is_right_MJ).sum(dim=1, keepdim=True).clamp(min=1)
    logits_MJ = intents_MD @ F.embedding(wrong_J, output_AD).T + torch.log((num_items - 1) / num_wrong_M1)
    wrong_M = logits_MJ.masked_fill(is_right_MJ, _NOTHING).logsumexp(dim=1)
    right_M = (intents_MD * F.embedding(target_M, output_AD)).sum(dim=1)
    return F.softplus(wrong_M - right_M)
