"""Advice: a symptom, what was seen, and what to change. Here those that show while training.

The other symptoms are in `doctor.py` (data) and `estimate.py` (time and memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from clozerec_trainer.metrics import SELECTED_BY, EpochRecord

OVERFITTING_VALIDATIONS = 2
"""Validations in a row that fell while the loss fell too."""
OVERFITTING_DROP = 0.03
PLATEAU_VALIDATIONS = 3
PLATEAU_GAIN = 0.01
"""Less than this share gained over so many validations is standing still."""


@dataclass(frozen=True)
class Advice:
    """One thing to change."""

    symptom: str
    """A stable word for it."""
    seen: str
    change: str

    def __str__(self) -> str:
        return f"{self.seen} {self.change}"


def advise_on_training(epochs: Sequence[EpochRecord], num_epochs: int) -> Advice | None:
    """What the curves say so far; None: nothing.

    Args:
        epochs: those that are done.
        num_epochs: those that were asked for. In the last quarter a curve stands still because the learning rate has
            fallen to nothing, which is no symptom.
    """
    judged = [each for each in epochs if each.validation]
    if len(judged) <= OVERFITTING_VALIDATIONS:
        return None
    figures = [each.validation[SELECTED_BY] for each in judged]
    last = judged[-(OVERFITTING_VALIDATIONS + 1) :]
    falls = all(later < earlier for earlier, later in pairwise(figures[-len(last) :]))
    best = max(figures)
    if falls and figures[-1] < (1 - OVERFITTING_DROP) * best and last[-1].loss < last[0].loss:
        return Advice(
            "overfitting",
            f"Overfitting: since epoch {judged[figures.index(best)].epoch} validation NDCG@10 fell from {best:.4f} "
            f"to {figures[-1]:.4f} while the training loss still falls.",
            "Lower model_depth, raise dropout_rate or masking_ratio, or stop earlier: fewer training_epochs, patience.",
        )
    if epochs[-1].epoch > 0.75 * num_epochs or len(judged) <= PLATEAU_VALIDATIONS:
        return None
    before, since = max(figures[:-PLATEAU_VALIDATIONS]), max(figures[-PLATEAU_VALIDATIONS:])
    if since < (1 + PLATEAU_GAIN) * before:
        return Advice(
            "plateau",
            f"A plateau: the last {PLATEAU_VALIDATIONS} validations gained less than {PLATEAU_GAIN:.0%} over "
            f"{before:.4f}, and {num_epochs - epochs[-1].epoch} epochs are left.",
            "See that times give the true order and that people have 5 to 10 events each (clozerec doctor); raise "
            "hidden_size or model_depth; or stop here: patience.",
        )
    return None
