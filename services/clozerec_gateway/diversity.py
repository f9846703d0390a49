"""Spread an answer over different kinds of items: maximal marginal relevance (Carbonell and Goldstein, 1998).

Shapes: N candidates, D dim of the space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clozerec_core.hybrid import Floats

CANDIDATES_PER_ITEM = 5
LEAST_CANDIDATES = 50
MOST_CANDIDATES = 1_000


def num_candidates(top_k: int) -> int:
    """How many candidates an answer of `top_k` is picked from, on all of its pages."""
    return min(MOST_CANDIDATES, max(LEAST_CANDIDATES, CANDIDATES_PER_ITEM * top_k))


def diverse_order(
    scores_N: Sequence[float], vectors_ND: Floats, diversity: float, taken: Sequence[int], num_picks: int
) -> list[int]:
    """Candidates in the order in which they are picked.

    Each pick has the best `(1 - diversity) * score - diversity * (cosine to the nearest of those picked before)`; ties
    go to the better place.

    Args:
        scores_N: of candidates, best first.
        vectors_ND: theirs, L2-normalised; zero where there is none.
        diversity: 0 to 1.
        taken: candidates that were picked before (earlier pages); they are not picked again.
        num_picks: at most so many.
    """
    relevance_N = (1.0 - diversity) * np.asarray(scores_N, np.float64)
    nearest_N = np.full(len(scores_N), -np.inf)
    is_free_N = np.ones(len(scores_N), np.bool_)
    for place in taken:
        is_free_N[place] = False
        np.maximum(nearest_N, vectors_ND @ vectors_ND[place], out=nearest_N)
    picks: list[int] = []
    for _ in range(min(num_picks, int(is_free_N.sum()))):
        penalty_N = diversity * nearest_N if taken or picks else 0.0
        gains_N = np.where(is_free_N, relevance_N - penalty_N, -np.inf)
        best = int(np.argmax(gains_N))
        picks.append(best)
        is_free_N[best] = False
        np.maximum(nearest_N, vectors_ND @ vectors_ND[best], out=nearest_N)
    return picks
