"""The FAISS index: exact nearest items among those that pass, in the one order that the contract allows.

FAISS proposes, in single precision; what it proposes is scored again in double precision, and the rounded scores are
ranked. A proposal therefore holds every row that could still tie with the last one asked for.

Shapes: N catalogue rows, D dim of the space.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from clozerec_core.bundle import INDEX, Bundle
from clozerec_core.errors import BadBundle
from clozerec_core.hybrid import Floats
from clozerec_retriever.masks import Mask
from clozerec_retriever.ranking import SCORE_STEP, RowArray, Scores

GATHER_SHARE = 0.25
"""Of the catalogue. Up to it, scoring the passing rows one by one is faster than a scan with a bitmap; measured at
100,000 x 64 on one core: 0.3 against 0.6 ms at 10%, 2.1 against 2.0 ms at 50%."""

TIE_MARGIN = SCORE_STEP + 2e-5
"""Single-precision scores this close to the last one asked for may round to its step. 1e-5 is ten times the error of
a sum of 512 products of unit vectors; both scores of a comparison have it."""

SPARE = 32
"""Rows that a scan proposes beyond those asked for, so that a second scan for ties is rare."""

BLOCK = 65_536
"""Rows scored in double precision at a time, which bounds memory where a whole catalogue ties."""


class ItemIndex:
    """Item vectors of one bundle, searched exactly. Safe to use from several threads."""

    def __init__(self, index: faiss.IndexFlatIP) -> None:
        self._index = index  # owns the memory that `_vectors_ND` looks at
        self._xb = index.get_xb()
        self._vectors_ND: Floats = faiss.rev_swig_ptr(self._xb, index.ntotal * index.d).reshape(index.ntotal, index.d)
        self._vectors_ND.flags.writeable = False
        self._has_vector_N: Mask = np.any(self._vectors_ND, axis=1)

    @classmethod
    def open(cls, bundle: Bundle) -> ItemIndex:
        """Read the index of a verified bundle.

        Raises:
            BadBundle: it is no flat inner-product index, or not of the size that the manifest says.
        """
        path, model = bundle.file(INDEX), bundle.manifest.model
        # No vector in a sound file is longer than the file; a lying header must not allocate more.
        usual_limit = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
        try:
            index = faiss.read_index(str(path))
        except RuntimeError:
            raise BadBundle(f"{INDEX} of bundle {bundle.path} is no FAISS index") from None
        finally:
            faiss.set_deserialization_vector_byte_limit(usual_limit)
        if not isinstance(index, faiss.IndexFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise BadBundle(f"{INDEX} of bundle {bundle.path} is no flat inner-product index, the kind served here")
        if (index.ntotal, index.d) != (model.num_items, model.dim):
            raise BadBundle(
                f"{INDEX} of bundle {bundle.path} holds {index.ntotal} vectors of length {index.d}, "
                f"but the manifest says {model.num_items} of length {model.dim}"
            )
        return cls(index)

    def vector(self, row: int) -> Floats | None:
        """The item's vector, `[D]`; None where the item has neither text nor behaviour."""
        return self._vectors_ND[row] if self._has_vector_N[row] else None

    def __len__(self) -> int:
        return len(self._has_vector_N)

    def best(self, intent_D: Floats, top_k: int, passing_N: Mask | None) -> tuple[RowArray, Scores]:
        """Rows that may be among the `top_k` nearest, with their cosines in double precision.

        Items without a vector never are.

        Args:
            intent_D: L2-normalised.
            top_k: 1 or more.
            passing_N: the rows that may be returned; None: all.
        """
        passing_N = self._has_vector_N if passing_N is None else self._has_vector_N & passing_N
        num_passing = int(np.count_nonzero(passing_N))
        if num_passing == 0:
            return np.empty(0, np.int64), np.empty(0, np.float64)
        intent_1D = np.ascontiguousarray(intent_D, np.float32).reshape(1, -1)
        if num_passing <= max(top_k, GATHER_SHARE * len(passing_N)):
            rows = self._gather(intent_1D, top_k, np.flatnonzero(passing_N))
        else:
            rows = self._scan(intent_1D, top_k, passing_N, num_passing)
        return rows, self._scores(rows, intent_1D[0])

    def _gather(self, intent_1D: Floats, top_k: int, rows: RowArray) -> RowArray:
        """Those of a few rows that may be among the best."""
        if len(rows) <= top_k:
            return rows
        products = np.empty(len(rows), np.float32)
        faiss.fvec_inner_products_by_idx(
            faiss.swig_ptr(products),
            faiss.swig_ptr(intent_1D),
            self._xb,
            faiss.swig_ptr(rows),
            intent_1D.shape[1],
            1,
            len(rows),
        )
        last = float(np.partition(products, -top_k)[-top_k])
        best: RowArray = rows[products >= last - TIE_MARGIN]
        return best

    def _scan(self, intent_1D: Floats, top_k: int, passing_N: Mask, num_passing: int) -> RowArray:
        """Those of many rows that may be among the best; more than `top_k` pass."""
        parameters = _only(passing_N) if num_passing < len(passing_N) else None
        num_proposed = min(num_passing, top_k + max(SPARE, top_k // 8))
        products_1K, rows_1K = self._index.search(intent_1D, num_proposed, params=parameters)
        threshold = float(products_1K[0, top_k - 1]) - TIE_MARGIN
        if num_proposed < num_passing and products_1K[0, -1] >= threshold:
            _, _, tied = self._index.range_search(intent_1D, threshold, params=parameters)
            return np.asarray(tied, np.int64)
        return np.asarray(rows_1K[0][products_1K[0] >= threshold], np.int64)

    def _scores(self, rows: RowArray, intent_D: Floats) -> Scores:
        """Cosines in double precision, `[len(rows)]`."""
        intent = intent_D.astype(np.float64)
        scores = np.empty(len(rows), np.float64)
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            scores[block] = self._vectors_ND[rows[block]].astype(np.float64) @ intent
        return scores


def _only(passing_N: Mask) -> Any:
    """Search parameters that skip the rows that do not pass."""
    selector = faiss.IDSelectorBitmap(np.packbits(passing_N, bitorder="little"))
    return faiss.SearchParameters(sel=selector)
