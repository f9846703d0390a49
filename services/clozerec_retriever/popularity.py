"""The most popular items among those that pass: the fallback order, which needs no vector.

Shapes: N catalogue rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clozerec_retriever.masks import Mask
from clozerec_retriever.ranking import Place, Ranking, rank


class Popularity:
    """Every item of the catalogue in order of popularity; an item without interactions scores 0."""

    def __init__(self, counts_N: NDArray[np.int64]) -> None:
        largest = max(1, int(counts_N.max(initial=0)))
        self._everything = rank(np.arange(len(counts_N)), counts_N / largest, len(counts_N))

    def best(self, top_k: int, passing_N: Mask | None, after: Place | None = None) -> Ranking:
        """The `top_k` most popular of the rows that pass (None: of the bundle's), from a place in the order on.

        Rows that the bundle does not have come last: a day-zero item scores 0, and its row is higher than any other.
        """
        rows, scores = self._everything.rows, self._everything.scores
        if passing_N is not None and len(passing_N) > len(rows):
            rows = np.concatenate((rows, np.arange(len(rows), len(passing_N))))
            scores = np.concatenate((scores, np.zeros(len(rows) - len(scores))))
        if after is not None:
            later = after.precedes(rows, scores)
            rows, scores = rows[later], scores[later]
        if passing_N is None:
            return Ranking(rows[:top_k], scores[:top_k])
        places = np.flatnonzero(passing_N[rows])[:top_k]
        return Ranking(rows[places], scores[places])
