"""Answers about one bundle's catalogue, in the domain's terms: nearest, most popular, and stored items.

Joins the index, the popularity order and the live catalogue; messages are `wire.py`'s. Blocking: call it off the event
loop.
"""

from __future__ import annotations

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
from clozerec_retriever.masks import Mask
from clozerec_retriever.popularity import Popularity
from clozerec_retriever.ranking import NOTHING, Place, Ranking, rank
from clozerec_retriever.wire import RowMessages

DEEPER = 8
"""A page after the first is looked for among the best `top_k`, then among so many times more, and so on."""


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


@dataclass(frozen=True)
class Found:
    """What a search brought."""

    ranking: Ranking
    exhausted: bool
    """Fewer than asked for pass."""
    vectorless_item: bool = False
    """The stored item has no vector to search by, so nothing was searched."""


class Retriever:
    """Searches one opened bundle, with the changes of its live catalogue. Safe to use from several threads."""

    def __init__(self, manifest: Manifest, live: LiveCatalogue, index: ItemIndex, popularity: Popularity) -> None:
        self.manifest = manifest
        self.live = live
        self.messages = RowMessages(live)
        self._index = index
        self._popularity = popularity

    @classmethod
    def open(cls, bundle: Bundle) -> Retriever:
        """Load what retrieval needs of a verified bundle.

        Raises:
            BadBundle: a file is not what the manifest says.
        """
        index = ItemIndex.open(bundle)
        return cls(bundle.manifest, LiveCatalogue.open(bundle), index, Popularity(bundle.popularity_counts))

    def warm_up(self) -> None:
        """Answer once before callers do, so that none of them waits for pages and caches."""
        self.search_by_vector(np.ones(self.manifest.model.dim, np.float32), Selection())
        self.popular(Selection())

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    def search_by_vector(self, intent: Sequence[float] | Floats, selection: Selection) -> Found:
        """The items nearest to a vector of the bundle's space, which is normalised here if it is not.

        Raises:
            BadRequest: `intent` has the wrong length, is not finite or is zero; `top_k` is too large.
        """
        return self._search(self.live.view, self._unit(intent), selection)

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
        view = self.live.view
        vector = self.vector(row)
        if vector is None:
            return Found(NOTHING, exhausted=True, vectorless_item=True)
        return self._search(view, vector, selection, row)

    def popular(self, selection: Selection) -> Found:
        """The most popular items.

        Raises:
            BadRequest: `top_k` is too large.
        """
        top_k = self._top_k(selection)
        ranking = self._popularity.best(top_k, self._passing(self.live.view, selection), selection.after)
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
        if not np.all(np.isfinite(intent_D)):
            raise BadRequest.of("intent", "expected finite numbers only, not NaN or infinity")
        norm = float(np.linalg.norm(intent_D))
        if norm <= TINY_NORM:
            raise BadRequest.of("intent", "expected a vector with a direction, not zero")
        return (intent_D / norm).astype(np.float32)

    def _search(self, view: View, intent_D: Floats, selection: Selection, *excluded_rows: int) -> Found:
        top_k = self._top_k(selection)
        passing_N = self._passing(view, selection, *excluded_rows)
        num_base = len(view.moved_B)
        of_index = ~view.moved_B if passing_N is None else passing_N[:num_base] & ~view.moved_B
        after, depth = selection.after, top_k
        while True:
            rows, scores = self._index.best(intent_D, depth, of_index)
            if len(view.tail.rows_T):
                more_rows, more_scores = view.tail.best(intent_D, TIE_MARGIN, depth, passing_N)
                rows, scores = np.concatenate((rows, more_rows)), np.concatenate((scores, more_scores))
            ranking = rank(rows, scores, depth)
            all_found = len(ranking) < depth
            if after is not None:
                ranking = ranking.after(after)
            if all_found or len(ranking) >= top_k:
                ranking = ranking.first(top_k)
                return Found(ranking, exhausted=len(ranking) < top_k)
            # The page lies deeper in the order.
            depth *= DEEPER

    def vector(self, row: int) -> Floats | None:
        """What the item is ranked by, `[D]`; None where it has no vector."""
        view = self.live.view
        if row >= len(view.moved_B) or view.moved_B[row]:
            return self.live.moved_vector(row)
        return self._index.vector(row)

    def _passing(self, view: View, selection: Selection, *excluded_rows: int) -> Mask | None:
        """The rows that may be returned, `[N]`; None where all may."""
        excluded = [row for row in self.live.rows_of(selection.exclude_item_ids) if row < view.num_rows]
        excluded += excluded_rows
        if selection.where == EVERYTHING and not excluded and not view.version:
            return None
        mask = view.passing(selection.where)
        if excluded:
            mask = mask.copy()
            mask[excluded] = False
        return mask
