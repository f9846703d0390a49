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
from clozerec_retriever.products import inner_products
from clozerec_retriever.ranking import RowArray

NEAR_CELLS = 8
"""So many cells around a query tell whether its neighbourhood passes."""

EVEN = 0.4
"""Where the least share among those is so much of their mean or more, rows pass all around the query alike."""


@dataclass(frozen=True)
class Around:
    """The cells seen from a query."""

    of: PassingByCell
    order_K: NDArray[np.int64]
    """The nearest first."""
    least_share: float
    """Of any cell close by. A mean would hide the edge of a corner, across which a walk does not find its way."""
    is_even: bool
    """What passes near the query does so everywhere alike, so that the nearest of all that passes is near too."""

    def rows(self, num_rows: int) -> RowArray:
        """The passing rows of the nearest cells, `num_rows` or a little more."""
        starts, ends = self.of.starts_K1[self.order_K], self.of.starts_K1[self.order_K + 1]
        counts = ends - starts
        last = int(np.searchsorted(np.cumsum(counts), num_rows)) + 1
        held = np.flatnonzero(counts[:last])
        parts = [self.of.rows_P[a:b] for a, b in zip(starts[held].tolist(), ends[held].tolist(), strict=True)]
        return np.concatenate(parts)


@dataclass(frozen=True)
class PassingByCell:
    """The passing rows, cell after cell."""

    rows_P: RowArray
    starts_K1: NDArray[np.int64]
    """Where each cell's rows begin in `rows_P`."""
    shares_K: NDArray[np.float64]
    """Of the cell's rows, that pass."""
    centroids_KD: Floats

    def around(self, intent_D: Floats) -> Around:
        """What passes near a query, and farther on."""
        order_K = np.argsort(-inner_products(self.centroids_KD, intent_D))
        close = self.shares_K[order_K[:NEAR_CELLS]].tolist()
        least = min(close)
        return Around(self, order_K, least, 0 < EVEN * sum(close) <= least * len(close))


class Cells:
    """Which cell each row lies in. Safe to use from several threads."""

    def __init__(self, centroids_KD: Floats, cell_of_N: NDArray[np.unsignedinteger]) -> None:
        self._centroids_KD = np.ascontiguousarray(centroids_KD, np.float32)
        self._cell_of_N = cell_of_N
        self._sizes_K = np.bincount(cell_of_N, minlength=len(centroids_KD))

    def of(self, rows_P: RowArray) -> PassingByCell:
        """The passing rows, given in ascending order, by cell."""
        cell_of_P = self._cell_of_N[rows_P]
        counts_K = np.bincount(cell_of_P, minlength=len(self._sizes_K))
        # A stable sort keeps rows ascending within a cell, so that memory is read forwards; with 16-bit keys it is
        # linear.
        return PassingByCell(
            rows_P[np.argsort(cell_of_P, kind="stable")],
            np.concatenate(([0], np.cumsum(counts_K))),
            counts_K / np.maximum(1, self._sizes_K),
            self._centroids_KD,
        )
