"""Cross-entropy over the whole catalogue without ever holding all logits: chunk by chunk, gradients in the same pass.

The logits of a step at every position of a batch are a hundred times larger than all else in it; written out and read
back for softmax, loss and gradient they cost more in memory traffic than in arithmetic. A chunk that stays in cache is
used up at once: loss, gradient of its intents, its share of the items' gradient. Wijmans et al. 2024
(arXiv:2411.09009) do the same within a GPU's cache.

Shapes: M answers asked for, of which a chunk holds some; A items at hand; D dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK_LOGITS = 1 << 20
"""Logits at a time: 4 MiB. From 2 to 16 MiB the time is the same within noise; larger chunks leave the cache, smaller
ones leave threads without work."""


def full_cross_entropy(intents_MD: Tensor, items_AD: Tensor, right_M: Tensor, weights_M: Tensor) -> Tensor:
    """Weighted mean of -log softmax(intents @ items.T)[right], a scalar; differentiable in intents and items.

    Args:
        intents_MD: divided by the temperature.
        items_AD: every item that may be right or wrong.
        right_M: index in them of each answer's right item.
        weights_M: not negative, not all zero.
    """
    loss: Tensor = _FullCrossEntropy.apply(intents_MD, items_AD, right_M, weights_M)  # type: ignore[no-untyped-call]
    return loss


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, intents_MD: Tensor, items_AD: Tensor, right_M: Tensor, weights_M: Tensor) -> Tensor:
        share_M = weights_M / weights_M.sum()
        intents_gradient_MD = torch.empty_like(intents_MD)
        items_gradient_AD = torch.zeros_like(items_AD)
        loss = intents_MD.new_zeros(())
        chunk_len = max(1, _CHUNK_LOGITS // len(items_AD))
        for begin in range(0, len(intents_MD), chunk_len):
            chunk = slice(begin, begin + chunk_len)
            right_c1, share_c1 = right_M[chunk, None], share_M[chunk, None]
            logits_cA = intents_MD[chunk] @ items_AD.T
            chance_cA = torch.softmax(logits_cA, dim=1)
            # Through the likeliest item: the right one's own chance may be too small for a float, its logarithm is not.
            highest_c1, likeliest_c1 = logits_cA.max(dim=1, keepdim=True)
            surprise_c1 = highest_c1 - chance_cA.gather(1, likeliest_c1).log() - logits_cA.gather(1, right_c1)
            loss += (surprise_c1 * share_c1).sum()
            error_cA = chance_cA.scatter_add_(1, right_c1, chance_cA.new_full((), -1.0).expand_as(right_c1))
            error_cA *= share_c1
            torch.mm(error_cA, items_AD, out=intents_gradient_MD[chunk])
            items_gradient_AD.addmm_(error_cA.T, intents_MD[chunk])
        ctx.save_for_backward(intents_gradient_MD, items_gradient_AD)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None]:
        intents_gradient_MD, items_gradient_AD = ctx.saved_tensors
        return gradients[0] * intents_gradient_MD, gradients[0] * items_gradient_AD, None, None
