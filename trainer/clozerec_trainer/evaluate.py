"""Judge by full ranking: of all items that have events, at which rank is the one that the person chose next?

Read as serving reads: the newest window and the mask, seen items removed. Never against sampled negatives, which can
turn one model into three different figures (Krichene & Rendle 2020). Ties go by catalogue row, as in serving.

Shapes: U users held out, B of them at a time, N items, D dim, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clozerec_core.catalogue import SpecialRows
from clozerec_core.errors import ClozerecError
from clozerec_core.hybrid import SCORE_STEPS_PER_UNIT, Floats
from clozerec_trainer.data import Ints, Log
from clozerec_trainer.model import HybridBert4Rec
from clozerec_trainer.sequences import LeaveOneOut, Part, last_windows

Metrics = dict[str, float]

CUTOFFS = (1, 5, 10, 20, 50)
NOT_RANKED = np.iinfo(np.int64).max
"""Rank of a target that cannot be returned: already seen, or without any vector."""

_CHUNK = 256

ScoreUsers = Callable[[slice], Floats]
"""Scores `[B, N]` of a slice of the held-out users; -inf for items that cannot be returned."""


@dataclass(frozen=True)
class Judge:
    """One part of a split, ready to rank."""

    split: LeaveOneOut
    part: Part
    num_items: int
    exclude_seen: bool

    def metrics(self, score_users: ScoreUsers, cutoffs: Sequence[int] = CUTOFFS) -> Metrics:
        """Figures of a scorer over all held-out users."""
        return summarise(self.ranks(score_users), cutoffs)

    def ranks(self, score_users: ScoreUsers) -> Ints:
        """Rank of each held-out event's item, 1 being best, `[U]`."""
        log, stops_U = self.split.log, self.split.targets(self.part)
        targets_U, starts_U = log.rows_E[stops_U], log.starts_U1[:-1][self.split.users]
        without_events_N = np.ones(self.num_items, bool)
        without_events_N[log.rows_E] = False
        ranks = [np.zeros(0, np.int64)]
        for begin in range(0, len(stops_U), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            scores_BN = score_users(chunk)
            scores_BN[:, without_events_N] = -np.inf
            if self.exclude_seen:
                _remove_seen(scores_BN, log, starts_U[chunk], stops_U[chunk])
            ranks.append(rank_of(targets_U[chunk], scores_BN))
        return np.concatenate(ranks)


def model_scores(model: HybridBert4Rec, log: Log, stops_U: Ints, users_U: Ints) -> ScoreUsers:
    """Cosine of intent and item vector."""
    device = model.log_temperature.device
    special = SpecialRows(model.num_items)
    input_ND, output_ND = model.catalogue_vectors()
    no_vector_N = ~output_ND.any(dim=1)

    def score(chunk: slice) -> Floats:
        rows_BT = last_windows(log, stops_U[chunk], users_U[chunk], special, model.network.spec.num_positions)
        intents_BD = model.intents(torch.from_numpy(rows_BT).long().to(device), input_ND)
        scores_BN = (intents_BD @ output_ND.T).masked_fill(no_vector_N, -torch.inf)
        scores: Floats = np.rint(scores_BN.cpu().numpy() * SCORE_STEPS_PER_UNIT) / SCORE_STEPS_PER_UNIT
        return scores

    return score


def evaluate_model(model: HybridBert4Rec, judge: Judge, cutoffs: Sequence[int] = CUTOFFS) -> Metrics:
    """Figures of the model; leaves it in evaluation mode."""
    model.eval()
    split = judge.split
    return judge.metrics(model_scores(model, split.log, split.targets(judge.part), split.users), cutoffs)


def rank_of(targets_B: Ints, scores_BN: Floats) -> Ints:
    """Rank of each target among its row's scores; equal scores are ordered by column.

    Raises:
        ClozerecError: a score is NaN, which would rank anything first.
    """
    if np.isnan(scores_BN).any():
        raise ClozerecError("the model's scores are not numbers; lower learning_rate and keep gradient_clipping on")
    own_B1 = np.take_along_axis(scores_BN, targets_B[:, None], axis=1)
    before_BN = np.arange(scores_BN.shape[1]) < targets_B[:, None]
    ranks_B = 1 + (scores_BN > own_B1).sum(axis=1) + ((scores_BN == own_B1) & before_BN).sum(axis=1)
    ranks: Ints = np.where(np.isneginf(own_B1[:, 0]), NOT_RANKED, ranks_B)
    return ranks


def summarise(ranks_U: Ints, cutoffs: Sequence[int]) -> Metrics:
    """HR, NDCG and MRR at each cutoff, and MRR over whole rankings; one right item a user, so its ideal DCG is 1."""
    metrics: Metrics = {}
    if not len(ranks_U):
        return metrics
    reciprocal_U: NDArray[np.float64] = np.where(ranks_U == NOT_RANKED, 0.0, 1.0 / ranks_U)
    gain_U = 1.0 / np.log2(np.minimum(ranks_U, NOT_RANKED - 1) + 1.0)
    for cutoff in sorted(set(cutoffs)):
        hit_U = ranks_U <= cutoff
        metrics[f"hr@{cutoff}"] = float(hit_U.mean())
        metrics[f"ndcg@{cutoff}"] = float((gain_U * hit_U).mean())
        metrics[f"mrr@{cutoff}"] = float((reciprocal_U * hit_U).mean())
    metrics["mrr"] = float(reciprocal_U.mean())
    return metrics


def _remove_seen(scores_BN: Floats, log: Log, starts_B: Ints, stops_B: Ints) -> None:
    for scores_N, start, stop in zip(scores_BN, starts_B, stops_B, strict=True):
        scores_N[log.rows_E[start:stop]] = -np.inf
