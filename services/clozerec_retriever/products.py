"""Inner products of one vector with many, on the calling thread alone: BLAS would start threads of its own for them.

Shapes: N vectors, P chosen rows, D dim.
"""

from __future__ import annotations

import faiss
import numpy as np

from clozerec_core.hybrid import Floats
from clozerec_retriever.ranking import RowArray


def inner_products(vectors_ND: Floats, intent_D: Floats) -> Floats:
    """With each of the vectors, `[N]`. Both arrays are contiguous float32."""
    products_N = np.empty(len(vectors_ND), np.float32)
    faiss.fvec_inner_products_ny(
        faiss.swig_ptr(products_N), faiss.swig_ptr(intent_D), faiss.swig_ptr(vectors_ND), *vectors_ND.shape[::-1]
    )
    return products_N


def inner_products_of(rows_P: RowArray, vectors_ND: Floats, intent_D: Floats) -> Floats:
    """With the vectors of some rows, where they lie, `[P]`. All arrays are contiguous."""
    products_P = np.empty(len(rows_P), np.float32)
    faiss.fvec_inner_products_by_idx(
        faiss.swig_ptr(products_P),
        faiss.swig_ptr(intent_D),
        faiss.swig_ptr(vectors_ND),
        faiss.swig_ptr(rows_P),
        vectors_ND.shape[1],
        1,
        len(rows_P),
    )
    return products_P
