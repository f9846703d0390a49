"""Which way to search: decided by how much passes, which is known exactly before anything is searched.

    few rows pass             SCAN    score every one of them; exact
    nearly all pass           GRAPH   walk the graph, skipping the few that do not; or CELLS, whichever is less work by
                                      what was measured when the bundle was written
    some pass                 CELLS   score the passing rows of the nearest cells that hold any: where the query lies
                                      among what passes, as many as sufficed when the bundle was written; where it does
                                      not, the more the less passes. Where cells are no good and much passes, walk the
                                      graph, wider

Without a graph (small catalogues, exact calls) every search is a scan.
"""

from __future__ import annotations

from enum import Enum

from clozerec_core.search_file import SearchFile
from clozerec_retriever.cells import Around
from clozerec_retriever.passing import Passing

SCAN_ROWS = 12_000
"""Scored one by one in about the time that an approximate search takes. Never under 10,000: up to it every answer is
exact by contract."""

GRAPH_SHARE = 0.9
"""Of all rows: where so much passes, the graph is walked without a look at the cells."""

NEARBY_SHARE = 0.35
"""Of the rows near the query: below it a walk meets so many rows that do not pass that scoring the cells is faster."""

FEW_ROWS = 5_000
"""Scored faster than a graph is walked under a filter."""


ROWS_A_STEP = 4
"""Rows scored in the time of one candidate of a walk, which jumps about in memory."""

ROWS_A_RESULT = 20
"""Passing rows to score for each item asked for, at least: what was measured, was for ten."""


class Plan(Enum):
    """How an answer was found; the values are metric labels."""

    SCAN = "scan"
    GRAPH = "graph"
    CELLS = "cells"


class Planner:
    """Chooses for one index."""

    def __init__(self, search_file: SearchFile | None) -> None:
        """
        Args:
            search_file: how wide to search; None: there is nothing approximate to search.
        """
        self._search_file = search_file

    def plan(self, top_k: int, passing: Passing, exact: bool) -> Plan:
        """The way to begin with."""
        if exact or self._search_file is None or passing.count <= max(SCAN_ROWS, 4 * top_k):
            return Plan.SCAN
        walks = self._search_file.rows_nearby > ROWS_A_STEP * self._search_file.ef_search
        return Plan.GRAPH if walks and passing.count >= GRAPH_SHARE * len(passing) else Plan.CELLS

    def width(self, wanted: int, share: float) -> int:
        """HNSW's `efSearch` for so many rows where a share of the neighbourhood passes."""
        assert self._search_file is not None
        narrow = max(self._search_file.ef_search, 2 * wanted)
        return int(narrow * max(1.0, 0.5 / share))

    def walks_among(self, around: Around) -> bool:
        """Whether to walk the graph in spite of a filter."""
        assert self._search_file is not None
        return self._search_file.rows_nearby > FEW_ROWS and around.least_share >= NEARBY_SHARE

    def rows_to_scan(self, top_k: int, around: Around, share: float) -> int:
        """Passing rows to score in the nearest cells.

        Args:
            top_k: items asked for.
            around: what passes near the query.
            share: of all rows, that pass: the more, the nearer to the edge of what passes lies a query outside of it.
        """
        assert self._search_file is not None
        rows = self._search_file.rows_nearby
        if not around.is_even:
            rows = max(rows, int(self._search_file.rows_to_scan * (1 - share)))
        return max(rows, ROWS_A_RESULT * top_k)
