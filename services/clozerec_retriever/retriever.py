"""Answers about one bundle's catalogue, in the domain's terms: nearest, most popular, and stored items.

Joins the index, the popularity order and the masks; knows nothing of messages. Blocking: call it off the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clozerec_core.bundle import Bundle, Manifest
from clozerec_core.catalogue import Catalogue
from clozerec_core.errors import BadRequest, BundleMismatch, UnknownItem
from clozerec_core.filters import column_violations
from clozerec_core.hybrid import TINY_NORM, Floats
from clozerec_core.limits import MAX_ITEMS_PER_CALL, MAX_TOP_K
from clozerec_core.predicate import EVERYTHING, Predicate
from clozerec_retriever.index import ItemIndex
from clozerec_retriever.masks import Mask, RowMasks
from clozerec_retriever.popularity import Popularity
from clozerec_retriever.ranking import NOTHING, Place, Ranking


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
    """Searches one opened bundle. Safe to use from several threads."""

    def __init__(
        self, manifest: Manifest, catalogue: Catalogue, index: ItemIndex, popularity: Popularity, content_NC: Floats
    ) -> None:
        self.manifest = manifest
        self.catalogue = catalogue
        self._index = index
        self._popularity = popularity
        self._content_NC = content_NC
        self._masks = RowMasks(catalogue)

    @classmethod
    def open(cls, bundle: Bundle) -> Retriever:
        """Load what retrieval needs of a verified bundle.

        Raises:
            BadBundle: a file is not what the manifest says.
        """
        index = ItemIndex.open(bundle)
        return cls(bundle.manifest, bundle.catalogue, index, Popularity(bundle.popularity_counts), bundle.content)

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    def check_bundle(self, bundle_id: str) -> None:
        """Refuse a request that means another bundle; empty means the current one.

        Raises:
            BundleMismatch: it is not loaded here.
        """
        if bundle_id not in ("", self.bundle_id):
            raise BundleMismatch(bundle_id, self.bundle_id)

    def search_by_vector(self, intent: Sequence[float] | Floats, selection: Selection) -> Found:
        """The items nearest to a vector of the bundle's space, which is normalised here if it is not.

        Raises:
            BadRequest: `intent` has the wrong length, is not finite or is zero; `top_k` is too large.
        """
        return self._nearest(self._unit(intent), selection, self._passing(selection))

    def search_by_item(self, item_id: str, selection: Selection) -> Found:
        """The items nearest to a stored item, without itself.

        Raises:
            UnknownItem: the catalogue does not have it.
            BadRequest: `top_k` is too large.
        """
        self._top_k(selection)
        row = self.catalogue.row_of(item_id)
        if row is None:
            raise UnknownItem(item_id)
        vector = self._index.vector(row)
        if vector is None:
            return Found(NOTHING, exhausted=True, vectorless_item=True)
        return self._nearest(vector, selection, self._passing(selection, row))

    def popular(self, selection: Selection) -> Found:
        """The most popular items.

        Raises:
            BadRequest: `top_k` is too large.
        """
        top_k = self._top_k(selection)
        ranking = self._popularity.best(top_k, self._passing(selection), selection.after)
        return Found(ranking, exhausted=len(ranking) < top_k)

    def rows(self, item_ids: Sequence[str]) -> list[int | None]:
        """Catalogue rows of the ids, in their order; None for an unknown one.

        Raises:
            BadRequest: no id, or too many.
        """
        if not 1 <= len(item_ids) <= MAX_ITEMS_PER_CALL:
            raise BadRequest.of("item_ids", f"expected 1 to {MAX_ITEMS_PER_CALL:,} ids, not {len(item_ids):,}")
        return [self.catalogue.row_of(item_id) for item_id in item_ids]

    def content(self, row: int) -> Floats:
        """The text engine's output for the item's text, `[C]`; empty where there is no text."""
        content_C: Floats = self._content_NC[row]
        return content_C if np.any(content_C) else content_C[:0]

    def vector(self, row: int) -> Floats | None:
        """The item's output-side vector, `[D]`; None where it has neither text nor behaviour."""
        return self._index.vector(row)

    def metadata_fields(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns to return, each once; no name means all.

        Raises:
            BadRequest: with a violation for each unknown name.
        """
        violations = list(column_violations(names, self.catalogue.schema, "metadata_fields"))
        if violations:
            raise BadRequest(violations)
        # In one order whatever the caller's, since rendered metadata is kept by it.
        return tuple(sorted(set(names))) or tuple(self.catalogue.schema)

    def _nearest(self, intent_D: Floats, selection: Selection, passing_N: Mask | None) -> Found:
        top_k = self._top_k(selection)
        if selection.after is not None:
            passing_N = self._index.coming_after(intent_D, selection.after, passing_N)
        ranking = self._index.search(intent_D, top_k, passing_N)
        return Found(ranking, exhausted=len(ranking) < top_k)

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

    def _passing(self, selection: Selection, *excluded_rows: int) -> Mask | None:
        """The rows that may be returned, `[N]`; None where all may."""
        excluded = [*self.catalogue.rows_of(selection.exclude_item_ids), *excluded_rows]
        everything = selection.where == EVERYTHING
        if everything and not excluded:
            return None
        mask = np.ones(len(self.catalogue), np.bool_) if everything else self._masks.passing(selection.where)
        if excluded:
            mask = mask.copy()
            mask[excluded] = False
        return mask
