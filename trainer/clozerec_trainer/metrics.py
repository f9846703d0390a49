"""Figures from rankings: HR, NDCG and MRR, what is said of the whole catalogue, and how sure one can be of them.

Shapes: C cases, N items, K answers, M figures, U users, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clozerec_trainer.data import Ints

Metrics = dict[str, float]
Figures = NDArray[np.float64]

CUTOFFS = (1, 5, 10, 20, 50)
SELECTED_BY = "ndcg@10"
"""The figure that decides: which epoch is kept, which model is chosen."""

NOT_RANKED = np.iinfo(np.int64).max
"""Rank of a target that cannot be returned: already seen, or without any vector."""

NO_ITEM = -1
"""In lists of answers, where fewer than K items could be returned."""

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch did."""

    epoch: int
    loss: float
    seconds: float
    validation: Metrics = field(default_factory=dict)
    """Empty where the epoch was not validated."""


def case_figures(ranks_C: Ints, cutoffs: Sequence[int]) -> dict[str, Figures]:
    """HR, NDCG and MRR of each case at each cutoff, and the reciprocal rank in the whole ranking, each `[C]`.

    One right item a case, so its ideal DCG is 1.
    """
    reciprocal_C: Figures = np.where(ranks_C == NOT_RANKED, 0.0, 1.0 / ranks_C)
    gain_C = 1.0 / np.log2(np.minimum(ranks_C, NOT_RANKED - 1) + 1.0)
    figures: dict[str, Figures] = {}
    for cutoff in sorted(set(cutoffs)):
        hit_C = ranks_C <= cutoff
        figures[f"hr@{cutoff}"] = hit_C.astype(np.float64)
        figures[f"ndcg@{cutoff}"] = gain_C * hit_C
        figures[f"mrr@{cutoff}"] = reciprocal_C * hit_C
    figures["mrr"] = reciprocal_C
    return figures


def summarise(ranks_C: Ints, cutoffs: Sequence[int]) -> Metrics:
    """The means over cases; nothing where there are none."""
    return means(case_figures(ranks_C, cutoffs)) if len(ranks_C) else {}


def means(figures: dict[str, Figures]) -> Metrics:
    """The mean of each figure."""
    return {name: float(values_C.mean()) for name, values_C in figures.items()}


def resampled_means(users_C: Ints, figures_CM: Figures, seed: int) -> Figures:
    """Means over users drawn with replacement, `[R, M]`: the bootstrap (Efron 1979), by user, whose cases are kin.

    All columns see the same draws, so that differences between columns are paired.
    """
    users, user_C = np.unique(users_C, return_inverse=True)
    num_users = len(users)
    sums_UM = np.stack([np.bincount(user_C, column, num_users) for column in figures_CM.T], axis=1)
    counts_U = np.bincount(user_C, minlength=num_users).astype(np.float64)
    generator = np.random.default_rng(seed)
    resampled = np.empty((NUM_RESAMPLES, figures_CM.shape[1]))
    for resample in range(NUM_RESAMPLES):
        times_U = np.bincount(generator.integers(0, num_users, num_users), minlength=num_users)
        resampled[resample] = (times_U @ sums_UM) / (times_U @ counts_U)
    return resampled


def interval(resampled_R: Figures) -> list[float]:
    """Where the figure lies with 95% confidence (percentile method)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled_R, (tail, 1 - tail))
    return [float(low), float(high)]


def beyond_accuracy(top_CK: Ints, targets_C: Ints, train_counts_N: Ints, num_ranked: int) -> Metrics:
    """What the answers look like as a whole.

    Coverage: share of the ranked items that somebody is offered. Novelty: mean self-information of an answer in bits
    (Vargas & Castells 2011), counted from training events. Popularity bias: mean training events of an answer, divided
    by those of what people chose; over 1, the model likes the popular more than people do.
    """
    answers = top_CK[top_CK != NO_ITEM]
    cutoff = top_CK.shape[1]
    if not len(answers):
        return {}
    share_N = (train_counts_N + 1) / (train_counts_N.sum() + len(train_counts_N))
    chosen = float(train_counts_N[targets_C].mean())
    return {
        f"coverage@{cutoff}": len(np.unique(answers)) / num_ranked,
        f"novelty@{cutoff}": float(-np.log2(share_N[answers]).mean()),
        f"popularity_bias@{cutoff}": float(train_counts_N[answers].mean()) / max(chosen, 1.0),
    }
