"""Which way to search: decided by how much passes, which is known exactly before anything is searched.

    few rows pass             SCAN    score every one of them; exact
    nearly all pass           GRAPH   walk the graph, skipping the few that do not
    some pass                 CELLS   score the passing rows of the nearest cells that hold any: where the query lies
                                      among what passes, as many as sufficed when the bundle was written; more where it
                                      does not. Where cells are no good and much passes, walk the graph, wider

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
        return Plan.GRAPH if passing.count >= GRAPH_SHARE * len(passing) else Plan.CELLS

    def width(self, wanted: int, share: float) -> int:
        """HNSW's `efSearch` for so many rows where a share of the neighbourhood passes."""
        assert self._search_file is not None
        narrow = max(self._search_file.ef_search, 2 * wanted)
        return int(narrow * max(1.0, 0.5 / share))

    def walks_among(self, around: Around) -> bool:
        """Whether to walk the graph in spite of a filter."""
        assert self._search_file is not None
        return self._search_file.rows_nearby > FEW_ROWS and around.least_share >= NEARBY_SHARE

    def rows_to_scan(self, top_k: int, around: Around) -> int:
        """Passing rows to score in the nearest cells."""
        assert self._search_file is not None
        usual = self._search_file.rows_nearby if around.is_even else self._search_file.rows_to_scan
        return max(usual, ROWS_A_RESULT * top_k)
