"""Judge by full ranking: of all items that have events, at which rank is the one that the person chose next?

Read as serving reads: the newest window and the mask, seen items removed. Never against sampled negatives, which can
turn one model into three different figures (Krichene & Rendle 2020). Ties go by catalogue row, as in serving.

Shapes: C cases held out, B of them at a time, N items, D dim, T positions, K answers.
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
from clozerec_trainer.metrics import CUTOFFS, NO_ITEM, NOT_RANKED, Metrics, summarise
from clozerec_trainer.model import HybridBert4Rec
from clozerec_trainer.sequences import last_windows
from clozerec_trainer.splits import Cases

_CELLS_AT_A_TIME = 2**22
"""Scores held at once, so that a large catalogue costs time and not memory."""
_MAX_CHUNK = 256

ScoreCases = Callable[[Cases], Floats]
"""Scores `[B, N]` of some cases, as an array that may be written to; -inf for items that cannot be returned."""


@dataclass(frozen=True)
class Ranking:
    """What a scorer makes of all cases."""

    ranks_C: Ints
    """Rank of the item that was chosen, 1 being best."""
    top_CK: Ints
    """Rows of the answers, best first."""


@dataclass(frozen=True)
class Judge:
    """Held-out events, ready to rank."""

    log: Log
    cases: Cases
    num_items: int
    exclude_seen: bool

    def metrics(self, score: ScoreCases, cutoffs: Sequence[int] = CUTOFFS) -> Metrics:
        """Figures of a scorer over all cases."""
        return summarise(self.rank(score).ranks_C, cutoffs)

    def rank(self, score: ScoreCases, num_top: int = 0) -> Ranking:
        """Rank every case; K is `num_top`."""
        without_events_N = np.ones(self.num_items, bool)
        without_events_N[self.log.rows_E] = False
        ranks, tops = [np.zeros(0, np.int64)], [np.zeros((0, num_top), np.int64)]
        chunk_len = min(_MAX_CHUNK, max(1, _CELLS_AT_A_TIME // self.num_items))
        for begin in range(0, len(self.cases), chunk_len):
            some = self.cases[begin : begin + chunk_len]
            scores_BN = score(some)
            scores_BN[:, without_events_N] = -np.inf
            if self.exclude_seen:
                case_P, events_P = some.past(self.log)
                scores_BN[case_P, self.log.rows_E[events_P]] = -np.inf
            ranks.append(rank_of(self.log.rows_E[some.stops_C], scores_BN))
            if num_top:
                tops.append(top_rows(scores_BN, num_top))
        return Ranking(np.concatenate(ranks), np.concatenate(tops))


def model_scores(model: HybridBert4Rec, log: Log) -> ScoreCases:
    """Cosine of intent and item vector; leaves the model in evaluation mode."""
    model.eval()
    device = model.log_temperature.device
    special = SpecialRows(model.num_items)
    input_ND, output_ND = model.catalogue_vectors()
    no_vector_N = ~output_ND.any(dim=1)

    def score(cases: Cases) -> Floats:
        rows_BT = last_windows(log, cases.stops_C, cases.users_C, special, model.network.spec.num_positions)
        intents_BD = model.intents(torch.from_numpy(rows_BT).long().to(device), input_ND)
        scores_BN = (intents_BD @ output_ND.T).masked_fill(no_vector_N, -torch.inf)
        scores: Floats = np.rint(scores_BN.cpu().numpy() * SCORE_STEPS_PER_UNIT) / SCORE_STEPS_PER_UNIT
        return scores

    return score


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


def top_rows(scores_BN: Floats, num_top: int) -> Ints:
    """Columns of the best scores, `[B, K]`, best first, equal scores by column; NO_ITEM where none may be returned."""
    num_found = min(num_top, scores_BN.shape[1])
    top_BK: NDArray[np.int64] = torch.from_numpy(_sort_keys(scores_BN)).topk(num_found, dim=1).indices.numpy()
    top_BK[np.isneginf(np.take_along_axis(scores_BN, top_BK, axis=1))] = NO_ITEM
    return np.pad(top_BK, ((0, 0), (0, num_top - num_found)), constant_values=NO_ITEM)


def _sort_keys(scores_BN: Floats) -> Ints:
    """Integers in the order of the scores, all different: a float's bits, then how early its column comes.

    The bits of a positive float32 ascend with it as an integer's, those of a negative one descend.
    """
    bits_BN = (scores_BN.astype(np.float32) + np.float32(0)).view(np.int32)  # + 0 turns -0 into 0
    ascending_BN = np.where(bits_BN < 0, bits_BN ^ np.int32(0x7FFFFFFF), bits_BN).astype(np.int64)
    return (ascending_BN << 32) - np.arange(scores_BN.shape[1])
