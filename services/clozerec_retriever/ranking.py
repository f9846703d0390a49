"""The order of candidates: score rounded to 1e-4 descending, ties by catalogue row.

Rounding makes the order independent of the last bits of a sum, which differ between processors and ways to scan; the
row then decides, so that order is never luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clozerec_core.hybrid import SCORE_STEPS_PER_UNIT as STEPS_PER_UNIT

SCORE_STEP = 1 / STEPS_PER_UNIT

RowArray = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Catalogue rows with their scores, best first. Both arrays are [k]."""

    rows: RowArray
    scores: Scores
    """Rounded to SCORE_STEP."""

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, top_k: int) -> Ranking:
        """The best `top_k`."""
        return Ranking(self.rows[:top_k], self.scores[:top_k])

    def without(self, rows: list[int]) -> Ranking:
        """The same but some rows."""
        left_out = set(rows)
        # For the few rows of an answer a tenth of what `np.isin` takes.
        kept = [place for place, row in enumerate(self.rows.tolist()) if row not in left_out]
        return Ranking(self.rows[kept], self.scores[kept])

    def after(self, place: Place) -> Ranking:
        """What comes after a place in the order."""
        later = place.precedes(self.rows, self.scores)
        return Ranking(self.rows[later], self.scores[later])


@dataclass(frozen=True)
class Place:
    """Where a page ended: the last candidate's score, as it was returned, and its row."""

    score: float
    row: int

    def precedes(self, rows: RowArray, scores: Scores) -> NDArray[np.bool_]:
        """Which of some rows, `[n]` with scores `[n]` in double precision, come after this place."""
        steps, own = np.rint(scores * STEPS_PER_UNIT), round(self.score * STEPS_PER_UNIT)
        comes_after: NDArray[np.bool_] = (steps < own) | ((steps == own) & (rows > self.row))
        return comes_after


NOTHING = Ranking(np.empty(0, np.int64), np.empty(0, np.float64))


def rank(rows: RowArray, scores: Scores, top_k: int) -> Ranking:
    """The `top_k` best of some rows, `[n]` with scores `[n]` in double precision."""
    steps = np.rint(scores * STEPS_PER_UNIT).astype(np.int64)
    best = np.lexsort((rows, -steps))[:top_k]
    return Ranking(rows[best], steps[best] / STEPS_PER_UNIT)
