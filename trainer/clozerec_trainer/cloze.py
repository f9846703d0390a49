"""The Cloze task: hide items of a window and ask for them (Sun et al. 2019, arXiv:1904.06690; Taylor 1953).

A share of the samples hides the last item only, which is what serving asks for. Causal batches ask for the next item at
every position instead; their last item is hidden as well, so that they too look like serving.

Shapes: B batch, L positions, M targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clozerec_core.catalogue import SpecialRows


@dataclass(frozen=True)
class Batch:
    """What the network reads and what it has to answer."""

    rows_BL: Tensor
    """With the mask's row where an item is hidden."""
    asked_BL: Tensor
    """Where an answer is asked for; true M times."""
    targets_M: Tensor
    """Rows of the right items, in the order of `asked_BL`."""
    weights_M: Tensor
    causal: bool
    """Whether a position reads only itself and the past."""
    padded: bool
    """Whether there is padding anywhere."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(
            self.rows_BL.to(device),
            self.asked_BL.to(device),
            self.targets_M.to(device),
            self.weights_M.to(device),
            self.causal,
            self.padded,
        )


def cloze_batch(
    rows_BL: Tensor,
    weights_BL: Tensor,
    special: SpecialRows,
    masking_ratio: float,
    last_item_ratio: float,
    generator: torch.Generator,
) -> Batch:
    """Hide each item with chance `masking_ratio`, at least one a window; in a share of windows the last item only."""
    batch_len, num_positions = rows_BL.shape
    is_item_BL = rows_BL != special.pad
    chance_BL = torch.rand(batch_len, num_positions, generator=generator).masked_fill(~is_item_BL, 2.0)
    luckless_B1 = chance_BL.argmin(dim=1, keepdim=True)
    hidden_BL = (chance_BL < masking_ratio).scatter(1, luckless_B1, value=True)
    last_BL = torch.zeros_like(hidden_BL)
    last_BL[:, -1] = True
    last_only_B1 = torch.rand(batch_len, 1, generator=generator) < last_item_ratio
    hidden_BL = torch.where(last_only_B1, last_BL, hidden_BL)
    return Batch(
        rows_BL=rows_BL.masked_fill(hidden_BL, special.mask),
        asked_BL=hidden_BL,
        targets_M=rows_BL[hidden_BL],
        weights_M=weights_BL[hidden_BL],
        causal=False,
        padded=not bool(is_item_BL.all()),
    )


def causal_batch(rows_BL: Tensor, weights_BL: Tensor, special: SpecialRows) -> Batch:
    """Ask for the next item at every position, and for the last item also at the mask in its place."""
    next_BL = torch.cat([rows_BL[:, 1:], rows_BL[:, -1:]], dim=1)
    next_weights_BL = torch.cat([weights_BL[:, 1:], weights_BL[:, -1:]], dim=1)
    asked_BL = rows_BL != special.pad
    hidden_BL = rows_BL.clone()
    hidden_BL[:, -1] = special.mask
    return Batch(
        rows_BL=hidden_BL,
        asked_BL=asked_BL,
        targets_M=next_BL[asked_BL],
        weights_M=next_weights_BL[asked_BL],
        causal=True,
        padded=not bool(asked_BL.all()),
    )
