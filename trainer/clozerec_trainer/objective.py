"""The loss of a batch: cross-entropy of cosine logits against all items, or against sampled ones.

Only the items that a step touches are made into vectors: with the full softmax all that have training events, else
those in the batch and the negatives. Items without training events are never negatives, since nothing says that they
are wrong.

Shapes: B batch, L positions, M answers asked for, A items at hand, J negatives of each answer, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clozerec_trainer.cloze import Batch
from clozerec_trainer.cross_entropy import full_cross_entropy
from clozerec_trainer.model import HybridBert4Rec


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
        negatives_MJ = self._negatives(len(batch.targets_M), generator)
        at_hand_A = self.trained_rows if negatives_MJ is None else self._rows_of(batch, negatives_MJ)
        kept_A1 = torch.rand(len(at_hand_A), 1, generator=generator).to(at_hand_A.device) >= self.behaviour_dropout
        input_AD = self.model.items_input(at_hand_A, kept_A1.float())
        output_AD = input_AD if self.model.tied else self.model.items_output(at_hand_A, kept_A1.float())

        index_BL = torch.searchsorted(at_hand_A, batch.rows_BL).clamp(max=len(at_hand_A) - 1)
        hidden_BLD = self.model.encode(batch.rows_BL, input_AD, index_BL, batch.causal, batch.padded)
        # Dividing the intents here instead of the many logits saves a quarter of a step; and dividing after masking
        # would give the learned temperature a gradient of infinity times zero.
        intents_MD = self.model.network.answer(hidden_BLD[batch.asked_BL]) / self.model.temperature
        target_M = torch.searchsorted(at_hand_A, batch.targets_M)
        if negatives_MJ is None:
            return full_cross_entropy(intents_MD, output_AD, target_M, batch.weights_M)
        logits = _sampled_logits(intents_MD, output_AD, target_M, torch.searchsorted(at_hand_A, negatives_MJ))
        losses_M = F.cross_entropy(logits, torch.zeros_like(target_M), reduction="none")
        loss: Tensor = (losses_M * batch.weights_M).sum() / batch.weights_M.sum()
        return loss

    def _negatives(self, num_answers: int, generator: torch.Generator) -> Tensor | None:
        """Rows drawn uniformly for each answer; None where all items are at hand."""
        if self.negative_samples == 0 or self.negative_samples >= len(self.trained_rows):
            return None
        drawn = torch.randint(len(self.trained_rows), (num_answers, self.negative_samples), generator=generator)
        rows_MJ: Tensor = self.trained_rows[drawn.to(self.trained_rows.device)]
        return rows_MJ

    def _rows_of(self, batch: Batch, negatives_MJ: Tensor) -> Tensor:
        """Sorted distinct rows of the items that the batch reads or ranks."""
        read = batch.rows_BL[batch.rows_BL < self.model.num_items]
        rows_A: Tensor = torch.unique(torch.cat([read, batch.targets_M, negatives_MJ.flatten()]))
        return rows_A


def _sampled_logits(intents_MD: Tensor, output_AD: Tensor, target_M: Tensor, negatives_MJ: Tensor) -> Tensor:
    """Logits `[M, 1 + J]`, the right item first; a negative that is the right item does not count."""
    candidates_MJ = torch.cat([target_M[:, None], negatives_MJ], dim=1)
    logits_MJ = torch.einsum("md,mjd->mj", intents_MD, F.embedding(candidates_MJ, output_AD))
    is_right_MJ = candidates_MJ == target_M[:, None]
    is_right_MJ[:, 0] = False
    return logits_MJ.masked_fill(is_right_MJ, -torch.inf)
