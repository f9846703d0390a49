"""What training cannot teach of new items is given to them afterwards (docs/adr/0016).

Training sets known items against each other, and each learns how much it is wanted; of a new one's text nothing says
so, and it loses to known ones that are as near. Scores being inner products of unit vectors, the direction that intents
and known items use least is given up for it: every intent is given the same part of it, and an item without behaviour
some.

Shapes: B histories, T positions, N items, M vectors, D dim.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clozerec_trainer.model import HybridBert4Rec, ItemVectors, SequenceNetwork

STANDING = 0.5
"""The constant part of intents where new items are lifted, beside a mean answer of length 1. More makes every score
smaller; less costs new items more of their own direction.
"""

_AT_ONCE = 256
"""Histories, as many as in a validation: memory goes with their number and their length squared."""


@torch.no_grad()
def lift_new_items(model: HybridBert4Rec, lift: float, rows_BT: Tensor) -> None:
    """Add to the score of items that are ranked without training events, those of later included.

    Sides that were tied are two from then on, for what is read stays. A model without texts stays as it is.

    Args:
        model: trained.
        lift: what is added for a text of mean length (a shorter one gets more), in units of a cosine, less than
            `STANDING`.
        rows_BT: histories that end with the mask, of whose intents the direction must know.
    """
    items = copy.deepcopy(model.items_output)
    if not items.projection.shape[1] or not items.has_text_N1.any():
        return
    input_ND, output_ND = model.catalogue_vectors()
    parts = (rows_BT[start : start + _AT_ONCE] for start in range(0, len(rows_BT), _AT_ONCE))
    answers_BD = torch.cat([model.unscaled_intents(part, input_ND) for part in parts])
    unused_D = _least_used(F.normalize(answers_BD, dim=-1), output_ND[items.trained_N1[:, 0] > 0])
    keep_DD = torch.eye(len(unused_D), device=unused_D.device) - torch.outer(unused_D, unused_D)
    _move_items(items, keep_DD, unused_D * (lift / STANDING))
    model.items_output = items
    _move_answers(model.network, keep_DD, unused_D * (STANDING * answers_BD.norm(dim=1).mean()))


def _least_used(*vectors_MD: Tensor) -> Tensor:
    """The direction `[D]` in which sets of unit vectors have the least of their length."""
    moments_DD = sum((each_MD.T @ each_MD / len(each_MD) for each_MD in vectors_MD), torch.zeros(()))
    least_D: Tensor = torch.linalg.eigh(moments_DD).eigenvectors[:, 0]
    return least_D


def _move_items(items: ItemVectors, keep_DD: Tensor, part_D: Tensor) -> None:
    """Project every vector, and let `part_D` be the share of it in one of text alone; behaviour takes it back."""
    has_text_N = items.has_text_N1[:, 0] > 0
    behaviour_ND = items.tensors()["behaviour"] @ keep_DD
    items.projection.copy_(keep_DD @ items.projection)
    items.bias.copy_(keep_DD @ items.bias)
    rows_N = torch.arange(len(has_text_N), device=items.bias.device)
    content_length = items.content_part(rows_N)[has_text_N].norm(dim=1).mean()
    move_D = part_D * content_length / (1 - part_D.square().sum()).sqrt()
    items.bias.add_(move_D)
    items.behaviour.copy_(behaviour_ND - move_D * items.has_text_N1 * items.trained_N1)
    items.behaviour_limit = None  # the behaviour above is within it already, and what was moved is not of it


def _move_answers(network: SequenceNetwork, keep_DD: Tensor, constant_D: Tensor) -> None:
    """Project every answer, and give it a constant part."""
    last = network.head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.copy_(keep_DD @ last.weight)
    last.bias.copy_(keep_DD @ last.bias + constant_D)
    if network.spec.taste:
        network.taste.weight.copy_(keep_DD @ network.taste.weight)
