"""The Cloze task: hide items of a window and ask for them (Sun et al. 2019, arXiv:1904.06690; Taylor 1953).

A share of the samples hides the last item only, which is what serving asks for. Causal batches ask for the next item at
every position instead; their last item is hidden as well, so that they too look like serving.

Shapes: B batch, T positions, M targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clozerec_core.catalogue import SpecialRows


@dataclass(frozen=True)
class Batch:
    """What the network reads and what it has to answer."""

    rows_BT: Tensor
    """With the mask's row where an item is hidden."""
    asked_BT: Tensor
    """Where an answer is asked for; true M times."""
    targets_M: Tensor
    """Rows of the right items, in the order of `asked_BT`."""
    weights_M: Tensor
    causal: bool
    """Whether a position reads only itself and the past."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(
            self.rows_BT.to(device),
            self.asked_BT.to(device),
            self.targets_M.to(device),
            self.weights_M.to(device),
            self.causal,
        )


def cloze_batch(
    rows_BT: Tensor,
    weights_BT: Tensor,
    special: SpecialRows,
    masking_ratio: float,
    last_item_ratio: float,
    generator: torch.Generator,
) -> Batch:
    """Hide each item with chance `masking_ratio`, at least one a window; in a share of windows the last item only."""
    batch_len, num_positions = rows_BT.shape
    is_item_BT = rows_BT != special.pad
    chance_BT = torch.rand(batch_len, num_positions, generator=generator).masked_fill(~is_item_BT, 2.0)
    luckless_B1 = chance_BT.argmin(dim=1, keepdim=True)
    hidden_BT = (chance_BT < masking_ratio).scatter(1, luckless_B1, value=True)
    last_BT = torch.zeros_like(hidden_BT)
    last_BT[:, -1] = True
    last_only_B1 = torch.rand(batch_len, 1, generator=generator) < last_item_ratio
    hidden_BT = torch.where(last_only_B1, last_BT, hidden_BT)
    return Batch(
        rows_BT=rows_BT.masked_fill(hidden_BT, special.mask),
        asked_BT=hidden_BT,
        targets_M=rows_BT[hidden_BT],
        weights_M=weights_BT[hidden_BT],
        causal=False,
    )


def causal_batch(rows_BT: Tensor, weights_BT: Tensor, special: SpecialRows) -> Batch:
    """Ask for the next item at every position, and for the last item also at the mask in its place."""
    next_BT = torch.cat([rows_BT[:, 1:], rows_BT[:, -1:]], dim=1)
    next_weights_BT = torch.cat([weights_BT[:, 1:], weights_BT[:, -1:]], dim=1)
    asked_BT = rows_BT != special.pad
    hidden_BT = rows_BT.clone()
    hidden_BT[:, -1] = special.mask
    return Batch(
        rows_BT=hidden_BT,
        asked_BT=asked_BT,
        targets_M=next_BT[asked_BT],
        weights_M=next_weights_BT[asked_BT],
        causal=True,
    )
