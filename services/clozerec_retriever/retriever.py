"""Answers about one bundle's catalogue, in the domain's terms: nearest, most popular, and stored items.

Joins the index, the popularity order and the live catalogue; messages are `wire.py`'s. Blocking: call it off the event
loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clozerec_core.bundle import Bundle, Manifest
from clozerec_core.errors import BadRequest, UnknownItem
from clozerec_core.filters import column_violations
from clozerec_core.hybrid import TINY_NORM, Floats
from clozerec_core.limits import MAX_TOP_K
from clozerec_core.predicate import EVERYTHING, Predicate
from clozerec_retriever.index import TIE_MARGIN, ItemIndex
from clozerec_retriever.live import LiveCatalogue, View
from clozerec_retriever.passing import Passing, PassingCache
from clozerec_retriever.planner import Plan
from clozerec_retriever.popularity import Popularity
from clozerec_retriever.ranking import NOTHING, Place, Ranking, rank
from clozerec_retriever.wire import RowMessages

DEEPER = 8
"""A page after the first is looked for among the best `top_k`, then among so many times more, and so on."""


FEW_EXCLUDED = 64
"""Up to so many rows, to look for more and drop them is faster than to prepare what passes anew."""


QUICK_S = 0.0005
"""Handing a search to a thread and back takes about so long; what takes no longer holds up nobody on the event loop."""

WARM_UPS = 10

QUICK_TOP_K, QUICK_EXCLUDED, QUICK_TAIL = 100, 1_000, 1_000
"""Beyond them a search takes longer than the ones at warm-up."""


@dataclass(frozen=True)
class Selection:
    """What may be returned, and how much of it."""

    top_k: int = 0
    """1 to 1,000; 0 means the bundle's default."""
    where: Predicate = EVERYTHING
    exclude_item_ids: Sequence[str] = ()
    """Unknown ids are allowed and mean nothing."""
    after: Place | None = None
    """Only what comes after this place in the order."""
    exact: bool = False
    """Scan every passing row even where an approximate answer would do."""
    exclude_rows: Sequence[int] = ()
    """More items that may not be returned, as rows of the bundle's own catalogue."""


@dataclass(frozen=True)
class Found:
    """What a search brought."""

    ranking: Ranking
    exhausted: bool
    """Fewer than asked for pass."""
    vectorless_item: bool = False
    """The stored item has no vector to search by, so nothing was searched."""
    plan: Plan | None = None
    """How it was searched; None: it was not."""
    share: float = 0.0
    """Of the bundle's rows, that pass."""


class Retriever:
    """Searches one opened bundle, with the changes of its live catalogue. Safe to use from several threads."""

    def __init__(self, manifest: Manifest, live: LiveCatalogue, index: ItemIndex, popularity: Popularity) -> None:
        self.manifest = manifest
        self.live = live
        self.messages = RowMessages(live)
        self._index = index
        self._popularity = popularity
        self._cache = PassingCache()
        self._is_quick = False

    @classmethod
    def open(cls, bundle: Bundle) -> Retriever:
        """Load what retrieval needs of a verified bundle.

        Raises:
            BadBundle: a file is not what the manifest says.
        """
        index = ItemIndex.open(bundle)
        return cls(bundle.manifest, LiveCatalogue.open(bundle), index, Popularity(bundle.popularity_counts))

    def warm_up(self) -> None:
        """Answer before callers do, so that none of them waits for pages and caches, and see how long it takes."""
        intent = np.ones(self.manifest.model.dim, np.float32)
        seen = Selection(exclude_rows=range(min(len(self._index), 2 * FEW_EXCLUDED)))
        took_s = []
        for _ in range(WARM_UPS):
            began = time.perf_counter()
            self.search_by_vector(intent, seen)
            took_s.append(time.perf_counter() - began)
        self.popular(Selection())
        self._is_quick = min(took_s) <= QUICK_S

    def is_quick(self, selection: Selection) -> bool:
        """Whether a search takes about `QUICK_S` at most: an ordinary one, of a catalogue where that is so, by a filter
        that was asked for lately."""
        return (
            self._is_quick
            and selection.after is None
            and selection.top_k <= QUICK_TOP_K
            and len(selection.exclude_item_ids) + len(selection.exclude_rows) <= QUICK_EXCLUDED
            and len(self.live.view.tail.rows_T) <= QUICK_TAIL
            and self._cache.get(selection.where, self.live.view.version) is not None
        )

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    def search_by_vector(self, intent: Sequence[float] | Floats, selection: Selection) -> Found:
        """The items nearest to a vector of the bundle's space, which is normalised here if it is not.

        Raises:
            BadRequest: `intent` has the wrong length, is not finite or is zero; `top_k` is too large.
        """
        return self._search(self._unit(intent), selection)

    def search_by_item(self, item_id: str, selection: Selection) -> Found:
        """The items nearest to a stored item, without itself.

        Raises:
            UnknownItem: the catalogue does not have it.
            BadRequest: `top_k` is too large.
        """
        self._top_k(selection)
        row = self.live.row_of(item_id)
        if row is None:
            raise UnknownItem(item_id)
        vector = self.vector(row)
        if vector is None:
            return Found(NOTHING, exhausted=True, vectorless_item=True)
        return self._search(vector, selection, row)

    def popular(self, selection: Selection) -> Found:
        """The most popular items.

        Raises:
            BadRequest: `top_k` is too large.
        """
        top_k = self._top_k(selection)
        passing, excluded = self._passing(self.live.view, selection, ())
        rows_N = passing.without(excluded).rows_N if excluded else passing.rows_N
        ranking = self._popularity.best(top_k, rows_N, selection.after)
        return Found(ranking, exhausted=len(ranking) < top_k)

    def metadata_fields(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns to return, each once; no name means all.

        Raises:
            BadRequest: with a violation for each unknown name.
        """
        violations = list(column_violations(names, self.live.schema, "metadata_fields"))
        if violations:
            raise BadRequest(violations)
        # In one order whatever the caller's, since rendered metadata is kept by it.
        return tuple(sorted(set(names))) or tuple(self.live.schema)

    def _top_k(self, selection: Selection) -> int:
        if not 0 <= selection.top_k <= MAX_TOP_K:
            raise BadRequest.of("top_k", f"expected 0 (the bundle's default) to {MAX_TOP_K:,}, not {selection.top_k:,}")
        return selection.top_k or self.manifest.serving.top_k_results

    def _unit(self, intent: Sequence[float] | Floats) -> Floats:
        """The intent as `[D]`, L2-normalised; in double precision, for a float32 norm may overflow."""
        dim = self.manifest.model.dim
        intent_D = np.asarray(intent, np.float64)
        if intent_D.shape != (dim,):
            raise BadRequest.of("intent", f"expected {dim} numbers, as bundle {self.bundle_id} has, not {len(intent)}")
        norm = math.sqrt(intent_D @ intent_D)
        if not math.isfinite(norm):  # so is no sum with a NaN or an infinity in it
            raise BadRequest.of("intent", "expected finite numbers only, not NaN or infinity")
        if norm <= TINY_NORM:
            raise BadRequest.of("intent", "expected a vector with a direction, not zero")
        return (intent_D / norm).astype(np.float32)

    def _search(self, intent_D: Floats, selection: Selection, *own_row: int) -> Found:
        top_k = self._top_k(selection)
        view = self.live.view
        passing, excluded = self._passing(view, selection, own_row)
        exact = selection.exact or selection.after is not None
        dropped: Sequence[int] = ()
        if self._drops_at_once(view):
            # Items that were added without a vector are in no index.
            dropped, excluded = [row for row in excluded if row < len(self._index)], []
        depth = top_k + len(excluded)
        while True:
            proposal = self._index.best(intent_D, depth, passing, exact, dropped)
            rows, scores = proposal.rows, proposal.scores
            if len(view.tail.rows_T):
                more_rows, more_scores = view.tail.best(intent_D, TIE_MARGIN, depth, passing.rows_N)
                rows, scores = np.concatenate((rows, more_rows)), np.concatenate((scores, more_scores))
            ranking = rank(rows, scores, depth)
            all_found = len(ranking) < depth
            if excluded:
                ranking = ranking.without(excluded)
            if selection.after is not None:
                ranking = ranking.after(selection.after)
            if all_found or len(ranking) >= top_k:
                ranking = ranking.first(top_k)
                return Found(ranking, len(ranking) < top_k, plan=proposal.plan, share=passing.count / len(passing))
            # The page lies deeper in the order.
            depth *= DEEPER

    def vector(self, row: int) -> Floats | None:
        """What the item is ranked by, `[D]`; None where it has no vector."""
        view = self.live.view
        if row >= len(view.moved_B) or view.moved_B[row]:
            return self.live.moved_vector(row)
        return self._index.vector(row)

    def _drops_at_once(self, view: View) -> bool:
        """Whether the index alone is searched, and leaves rows out by itself."""
        return self._index.scores_all and not len(view.tail.rows_T)

    def _passing(self, view: View, selection: Selection, own_row: tuple[int, ...]) -> tuple[Passing, list[int]]:
        """What may be returned, and the few rows that are to be left out of it afterwards."""
        passing = self._cache.get(selection.where, view.version)
        if passing is None:
            searchable_B = self._index.has_vector_N & ~view.moved_B
            passing = Passing(view.passing(selection.where), searchable_B, self._index.cells)
            self._cache.put(selection.where, view.version, passing)
        if not selection.exclude_item_ids and not len(selection.exclude_rows) and not own_row:
            return passing, []
        excluded = [row for row in self.live.rows_of(selection.exclude_item_ids) if row < view.num_rows]
        excluded += own_row
        excluded += selection.exclude_rows
        if len(excluded) <= FEW_EXCLUDED or self._drops_at_once(view):
            return passing, excluded
        return passing.without(excluded), []
