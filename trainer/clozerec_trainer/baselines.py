"""What any model must beat: popularity, counted from training events only, ranked by the same judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clozerec_core.hybrid import Floats
from clozerec_trainer.data import Ints
from clozerec_trainer.evaluate import CUTOFFS, Judge, Metrics, ScoreUsers
from clozerec_trainer.sequences import LeaveOneOut


def train_counts(split: LeaveOneOut, num_items: int) -> Ints:
    """Training events of each item, `[N]`. Held-out events would tell the answer."""
    counts: Ints = np.bincount(split.log.rows_E[split.train_events], minlength=num_items)
    return counts


def popularity_scores(counts_N: Ints, num_users: int) -> ScoreUsers:
    """The same score for everybody."""

    def score(chunk: slice) -> Floats:
        return np.tile(counts_N.astype(np.float32), (len(range(*chunk.indices(num_users))), 1))

    return score


def evaluate_popularity(judge: Judge, cutoffs: Sequence[int] = CUTOFFS) -> Metrics:
    """Figures of the most popular items."""
    counts_N = train_counts(judge.split, judge.num_items)
    return judge.metrics(popularity_scores(counts_N, len(judge.split.users)), cutoffs)
