"""The vectors of a bundle and the ways to search them: by scanning what passes, by cells, or by a graph.

Whatever the way, FAISS proposes in single precision; what it proposes is scored again in double precision, and the
rounded scores are ranked. A proposal therefore holds every row that could still tie with the last one asked for.
Scans are exact. Cells and graph are approximate; where they come back short, the scan answers.

Shapes: N rows of the index, D dim of the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from clozerec_core.bundle import INDEX, Bundle
from clozerec_core.errors import BadBundle
from clozerec_core.hybrid import Floats
from clozerec_core.search_file import SearchFile, num_proposed
from clozerec_retriever.cells import Cells
from clozerec_retriever.masks import Mask
from clozerec_retriever.passing import COPIED_BYTES, Passing
from clozerec_retriever.planner import Plan, Planner
from clozerec_retriever.products import inner_products, inner_products_of
from clozerec_retriever.ranking import SCORE_STEP, RowArray, Scores

GATHER_SHARE = 0.25
"""Of the catalogue. Up to it, scoring the passing rows one by one is faster than a scan with a bitmap; measured at
100,000 x 64 on one core: 0.3 against 0.6 ms at 10%, 2.1 against 2.0 ms at 50%."""

TIE_MARGIN = SCORE_STEP + 2e-5
"""Single-precision scores this close to the last one asked for may round to its step. 1e-5 is ten times the error of
a sum of 512 products of unit vectors; both scores of a comparison have it."""

LEAST_SCORE = -2.0
"""Below any cosine."""

SPARE = 32
"""Rows that a scan proposes beyond those asked for, so that a second scan for ties is rare."""

SMALL = 16_384
"""Rows up to which all are scored, whatever passes: 20 us for 4,000 of them, less than to tell FAISS which."""

FEW_NUMBERS = 9_216
"""In the vectors that pass: so few are scored in double precision at once. OpenBLAS multiplies them on the calling
thread alone, more it may not."""

BLOCK = 65_536
"""Rows scored in double precision at a time, which bounds memory where a whole catalogue ties."""


@dataclass(frozen=True)
class Proposal:
    """Rows that may be among the best, with their cosines in double precision, and how they were found."""

    rows: RowArray
    scores: Scores
    plan: Plan


class ItemIndex:
    """Item vectors of one bundle. Safe to use from several threads."""

    def __init__(self, vectors_ND: Floats, graph: Any = None, search_file: SearchFile | None = None) -> None:
        """
        Args:
            vectors_ND: L2-normalised; zero rows have no vector. Usually memory-mapped.
            graph: a FAISS HNSW index over the same rows.
            search_file: cells, and how wide to search the graph.
        """
        self._vectors_ND = vectors_ND
        self._vectors_ND.flags.writeable = False
        self._flat: Any = None
        self._graph = graph
        self.cells = Cells(search_file.centroids_KD, search_file.cell_of_N) if search_file else None
        self._planner = Planner(search_file if graph is not None else None)
        self.has_vector_N: Mask = np.any(self._vectors_ND, axis=1)
        self.scores_all = graph is None and len(vectors_ND) <= SMALL
        """So that leaving some rows out costs nothing: `best` takes them."""

    @classmethod
    def open(cls, bundle: Bundle) -> ItemIndex:
        """Read the index of a verified bundle, memory-mapped.

        Raises:
            BadBundle: it is of no kind that is served here, or not of the size that the manifest says.
        """
        path, model = bundle.file(INDEX), bundle.manifest.model
        # No vector in a sound file is longer than the file; a lying header must not allocate more.
        usual_limit = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError:
            raise BadBundle(f"{INDEX} of bundle {bundle.path} is no FAISS index") from None
        finally:
            faiss.set_deserialization_vector_byte_limit(usual_limit)
        is_graph = isinstance(index, faiss.IndexHNSW)
        if not (is_graph or isinstance(index, faiss.IndexFlat)) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise BadBundle(
                f"{INDEX} of bundle {bundle.path} is no flat or HNSW index by inner product, the kinds served here"
            )
        if (index.ntotal, index.d) != (model.num_items, model.dim):
            raise BadBundle(
                f"{INDEX} of bundle {bundle.path} holds {index.ntotal} vectors of length {index.d}, "
                f"but the manifest says {model.num_items} of length {model.dim}"
            )
        search_file = SearchFile.open(bundle)
        flat = faiss.downcast_index(index.storage) if is_graph else index
        if isinstance(flat, faiss.IndexFlat):
            opened = cls(_vectors_of(flat), index if is_graph else None, search_file)
            opened._flat = flat
        else:
            opened = cls(bundle.vectors, index, search_file)  # the graph has them quantised
        opened._owner = index
        return opened

    _owner: Any = None
    """Owns the memory that `_vectors_ND` looks at."""

    def __len__(self) -> int:
        return len(self.has_vector_N)

    def vector(self, row: int) -> Floats | None:
        """The item's vector, `[D]`; None where the item has neither text nor behaviour."""
        return self._vectors_ND[row] if self.has_vector_N[row] else None

    def best(
        self, intent_D: Floats, top_k: int, passing: Passing, exact: bool = False, excluded: Sequence[int] = ()
    ) -> Proposal:
        """Rows that may be among the `top_k` nearest; items without a vector never are.

        Args:
            intent_D: L2-normalised.
            top_k: 1 or more.
            passing: what may be returned, prepared for this index.
            exact: never search approximately.
            excluded: rows that may not be returned either; only where it `scores_all`.
        """
        intent_1D = np.ascontiguousarray(intent_D, np.float32).reshape(1, -1)
        if self.scores_all:
            all_rows = self._score_all(intent_1D, top_k, passing, excluded)
            return Proposal(all_rows, self._scores(all_rows, intent_1D[0]), Plan.SCAN)
        if passing.count * intent_1D.size <= FEW_NUMBERS:
            return Proposal(
                passing.rows, passing.doubles(self._vectors_ND) @ intent_1D[0].astype(np.float64), Plan.SCAN
            )
        rows: RowArray | None = None
        plan = self._planner.plan(top_k, passing, exact)
        if plan is Plan.CELLS:
            around = passing.by_cell.around(intent_1D[0])
            if self._planner.walks_among(around):
                plan = Plan.GRAPH
                rows = self._walk(intent_1D, top_k, passing, around.least_share)
            if rows is None:
                plan = Plan.CELLS
                num_rows = self._planner.rows_to_scan(top_k, around, passing.count / len(passing))
                rows = self._gather(intent_1D, top_k, around.rows(num_rows))
        elif plan is Plan.GRAPH:
            rows = self._walk(intent_1D, top_k, passing, 1.0)
        if rows is None:
            plan = Plan.SCAN
            if passing.count <= max(top_k, GATHER_SHARE * len(passing)):
                rows = self._gather(intent_1D, top_k, passing.rows, passing)
            else:
                rows = self._scan(intent_1D, top_k, passing)
        return Proposal(rows, self._scores(rows, intent_1D[0]), plan)

    def _walk(self, intent_1D: Floats, top_k: int, passing: Passing, share: float) -> RowArray | None:
        """What the graph proposes; None where it came back short."""
        wanted = min(passing.count, num_proposed(top_k, quantised=self._flat is None))
        parameters = faiss.SearchParametersHNSW()
        parameters.efSearch = self._planner.width(wanted, share)
        if not passing.is_all:
            parameters.sel = passing.selector
        products_K, rows_K = np.empty(wanted, np.float32), np.empty(wanted, np.int64)
        self._graph.search_c(
            1, faiss.swig_ptr(intent_1D), wanted, faiss.swig_ptr(products_K), faiss.swig_ptr(rows_K), parameters
        )
        return None if rows_K[-1] < 0 else rows_K

    def _score_all(self, intent_1D: Floats, top_k: int, passing: Passing, excluded: Sequence[int]) -> RowArray:
        """Those of all rows that may be among the best."""
        products_N = inner_products(self._vectors_ND, intent_1D[0])
        if not passing.is_all:
            products_N[passing.not_of_index_B] = -np.inf
        if len(excluded):
            products_N[excluded] = -np.inf
        last = np.partition(products_N, -top_k)[-top_k] if top_k < len(self) else -np.inf
        return np.flatnonzero(products_N >= max(last - TIE_MARGIN, LEAST_SCORE))

    def _gather(self, intent_1D: Floats, top_k: int, rows: RowArray, all_of: Passing | None = None) -> RowArray:
        """Those of a few rows that may be among the best.

        Args:
            intent_1D: as in `best`.
            top_k: as in `best`.
            rows: the few.
            all_of: they are all that passes here.
        """
        if len(rows) <= top_k:
            return rows
        if all_of is not None and len(rows) * intent_1D.nbytes <= COPIED_BYTES:
            products = inner_products(all_of.vectors(self._vectors_ND), intent_1D)
        else:
            products = inner_products_of(rows, self._vectors_ND, intent_1D)
        last = float(np.partition(products, -top_k)[-top_k])
        best: RowArray = rows[products >= last - TIE_MARGIN]
        return best

    def _scan(self, intent_1D: Floats, top_k: int, passing: Passing) -> RowArray:
        """Those of many rows that may be among the best; more than `top_k` pass."""
        if self._flat is None:
            return self._gather(intent_1D, top_k, passing.rows)
        parameters = None if passing.is_all else faiss.SearchParameters(sel=passing.selector)
        num_proposed = min(passing.count, top_k + max(SPARE, top_k // 8))
        products_1K, rows_1K = self._flat.search(intent_1D, num_proposed, params=parameters)
        threshold = float(products_1K[0, top_k - 1]) - TIE_MARGIN
        if num_proposed < passing.count and products_1K[0, -1] >= threshold:
            _, _, tied = self._flat.range_search(intent_1D, threshold, params=parameters)
            return np.asarray(tied, np.int64)
        return np.asarray(rows_1K[0][products_1K[0] >= threshold], np.int64)

    def _scores(self, rows: RowArray, intent_D: Floats) -> Scores:
        """Cosines in double precision, `[len(rows)]`."""
        intent = intent_D.astype(np.float64)
        if len(rows) <= BLOCK:
            scores: Scores = self._vectors_ND[rows].astype(np.float64) @ intent
            return scores
        blocks = np.array_split(rows, len(rows) // BLOCK + 1)
        return np.concatenate([self._vectors_ND[block].astype(np.float64) @ intent for block in blocks])


def _vectors_of(flat: Any) -> Floats:
    """The vectors in a flat FAISS index, `[N, D]`, where they lie."""
    vectors: Floats = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    return vectors
