"""The space cut into cells, each with its rows: where passing rows lie, and which of them lie near a query.

A graph is walked through rows that do not pass as well, and is lost where none near the query passes (a brand that
lies in one corner). Cells know how many of their rows pass, so a query looks at the nearest cells *that hold passing
rows*, however far they are.

Shapes: N rows of the index, K cells, D dim, P passing rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clozerec_core.hybrid import Floats
from clozerec_retriever.masks import Mask
from clozerec_retriever.ranking import RowArray

NEAR_CELLS = 8
"""So many cells around a query tell whether its neighbourhood passes."""


@dataclass(frozen=True)
class PassingByCell:
    """The passing rows, cell after cell."""

    rows_P: RowArray
    starts_K1: NDArray[np.int64]
    """Where each cell's rows begin in `rows_P`."""
    shares_K: NDArray[np.float64]
    """Of the cell's rows, that pass."""
    centroids_KD: Floats

    def near(self, intent_D: Floats, num_rows: int) -> tuple[RowArray, float]:
        """The passing rows of the nearest cells, `num_rows` or a little more, and the least share of any cell close by.

        A mean share would hide the edge of a corner, across which a walk does not find its way.
        """
        order = np.argsort(-(self.centroids_KD @ intent_D))
        starts, ends = self.starts_K1[order], self.starts_K1[order + 1]
        counts = ends - starts
        last = int(np.searchsorted(np.cumsum(counts), num_rows)) + 1
        held = np.flatnonzero(counts[:last])
        rows = [self.rows_P[a:b] for a, b in zip(starts[held].tolist(), ends[held].tolist(), strict=True)]
        return np.concatenate(rows), float(self.shares_K[order[:NEAR_CELLS]].min())


class Cells:
    """Which cell each row lies in. Safe to use from several threads."""

    def __init__(self, centroids_KD: Floats, cell_of_N: NDArray[np.unsignedinteger]) -> None:
        self._centroids_KD = centroids_KD
        # A stable sort keeps rows ascending within a cell, so that memory is read forwards.
        self._rows_N = np.argsort(cell_of_N, kind="stable").astype(np.int32)
        sizes_K = np.bincount(cell_of_N, minlength=len(centroids_KD))
        self._starts_K1 = np.concatenate(([0], np.cumsum(sizes_K)))

    def of(self, passing_N: Mask) -> PassingByCell:
        """The passing rows by cell."""
        passes_N = passing_N[self._rows_N]
        before_N1 = np.concatenate(([0], np.cumsum(passes_N, dtype=np.int64)))
        starts_K1 = before_N1[self._starts_K1]
        sizes_K = np.maximum(1, np.diff(self._starts_K1))
        rows_P = self._rows_N[passes_N].astype(np.int64)
        return PassingByCell(rows_P, starts_K1, np.diff(starts_K1) / sizes_K, self._centroids_KD)
