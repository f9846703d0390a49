"""What any model must beat, fitted on training events only and ranked by the same judge.

Popularity of all times and of the last days (which beats many a network: Ji et al. 2020, arXiv:2005.13829), item-kNN
and matrix factorisation from `implicit`, and the nearest items by text, which alone of these can rank a new item.

Shapes: B cases at a time, N items, C content dims, F factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import ItemItemRecommender
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from clozerec_core.hybrid import Floats
from clozerec_trainer.evaluate import ScoreCases
from clozerec_trainer.item_features import Content
from clozerec_trainer.payload import Baseline, Payload
from clozerec_trainer.splits import Cases, Split

RECENT_DAYS = 7
_DAY_US = 86_400 * 10**6

_NEIGHBOURS = 100
_FACTORS, _REGULARISATION, _ITERATIONS = 64, 0.05, 15
"""Usual values; nothing here is tuned to a data set."""


@dataclass(frozen=True)
class _Training:
    """What a baseline may learn from."""

    split: Split
    content: Content
    num_items: int
    payload: Payload

    def matrix(self) -> csr_matrix:
        """Events of each user (row) and item (column)."""
        log, events = self.split.log, self.split.train_events
        users = np.repeat(np.arange(log.num_users), log.lengths_U)[events]
        return _binary(users, log.rows_E[events], (log.num_users, self.num_items))

    def histories(self, cases: Cases, newest: int | None = None) -> csr_matrix:
        """The same for what may be read of each case."""
        case_P, events_P = cases.past(self.split.log, newest)
        return _binary(case_P, self.split.log.rows_E[events_P], (len(cases), self.num_items))


def fit_baselines(split: Split, content: Content, num_items: int, payload: Payload) -> dict[str, ScoreCases]:
    """Those that the payload names, simplest first; by text only where there are texts."""
    training = _Training(split, content, num_items, payload)
    named = [name for name in _FITS if name in payload.baselines]
    return {name: _FITS[name](training) for name in named if name != "content_knn" or content.whitening_CK.size}


def _popularity(training: _Training) -> ScoreCases:
    counts_N = training.split.train_counts(training.num_items).astype(np.float32)
    return lambda cases: np.tile(counts_N, (len(cases), 1))


def _recent_popularity(training: _Training) -> ScoreCases:
    """Counted over the last days before a case; after training has ended, over its last days."""
    log, events = training.split.log, training.split.train_events
    order = np.argsort(log.times_us_E[events], kind="stable")
    times_us, rows = log.times_us_E[events][order], log.rows_E[events][order]

    def score(cases: Cases) -> Floats:
        until_us_B = np.minimum(log.times_us_E[cases.stops_C], times_us[-1] + 1)
        firsts_B = np.searchsorted(times_us, until_us_B - RECENT_DAYS * _DAY_US)
        lasts_B = np.searchsorted(times_us, until_us_B)
        spans = zip(firsts_B, lasts_B, strict=True)
        counts = [np.bincount(rows[first:last], minlength=training.num_items) for first, last in spans]
        return np.stack(counts).astype(np.float32)

    return score


def _item_knn(training: _Training) -> ScoreCases:
    """Sum of cosine similarities to what the person had before (Sarwar et al. 2001)."""
    matrix = training.matrix().astype(np.float64)  # implicit takes nothing else
    lengths_N = np.sqrt(matrix.sum(axis=0)).A1
    matrix.data /= lengths_N[matrix.indices]
    model = ItemItemRecommender(K=_NEIGHBOURS)
    model.fit(matrix, show_progress=False)
    similarity_NN = model.similarity.astype(np.float32)
    return lambda cases: (training.histories(cases) @ similarity_NN).toarray()


def _content_knn(training: _Training) -> ScoreCases:
    """Mean cosine of whitened text vectors to the newest items of the person."""
    vectors_NC = training.content.whitened()
    norms_N1 = np.linalg.norm(vectors_NC, axis=1, keepdims=True)
    vectors_NC /= np.where(norms_N1 > 0, norms_N1, 1)
    newest = training.payload.max_sequence_length

    def score(cases: Cases) -> Floats:
        tastes_BC = training.histories(cases, newest) @ vectors_NC
        scores_BN: Floats = np.asarray(tastes_BC @ vectors_NC.T, np.float32)
        scores_BN[:, norms_N1[:, 0] == 0] = -np.inf
        return scores_BN

    return score


def _matrix_factorisation(training: _Training) -> ScoreCases:
    """Weighted alternating least squares (Hu, Koren & Volinsky 2008); people are folded in by their histories."""
    # implicit runs its own threads, and warns of a BLAS that would run more beside them.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=min(_FACTORS, training.num_items),
            regularization=_REGULARISATION,
            iterations=_ITERATIONS,
            random_state=training.payload.seed % 2**32,
        )
        model.fit(training.matrix(), show_progress=False)

    def score(cases: Cases) -> Floats:
        factors_BF = model.recalculate_user(np.arange(len(cases)), training.histories(cases))
        scores_BN: Floats = np.asarray(factors_BF @ model.item_factors.T)
        return scores_BN

    return score


def _binary(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    matrix = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    matrix.data[:] = 1  # an item that came twice is no other item
    return matrix


_FITS: Mapping[Baseline, Callable[[_Training], ScoreCases]] = {
    "popularity": _popularity,
    "recent_popularity": _recent_popularity,
    "item_knn": _item_knn,
    "content_knn": _content_knn,
    "matrix_factorisation": _matrix_factorisation,
}
