"""Build the index of a bundle: flat for small catalogues; an HNSW graph, and cells beside it, for large ones.

How wide the graph is to be searched is measured here, on the vectors themselves, so that serving need not guess.

Shapes: N items, K cells, D dim, Q sampled queries.
"""

from __future__ import annotations

from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from clozerec_core.hybrid import Floats, normalise
from clozerec_core.search_file import SearchFile, num_proposed

Quantisation = Literal["none", "sq8"]

GRAPH_FROM = 50_000
"""Items. Below it an exact scan takes half a millisecond, and a graph would save little."""

LINKS = 16
"""HNSW's M: as much again as half of the vectors at 64 dims. Malkov and Yashunin, arXiv:1603.09320."""

BUILD_WIDTH = 100
WIDTHS = (24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
GOOD_RECALL = 0.995
ROWS_TO_SCAN, LEAST_TO_SCAN = 8_000, 1_500
NUM_QUERIES = 200
TOP_K = 10
NOISE = 0.5
"""Length of the random step from an item to the query beside it: intents are near items, but are none."""

ROWS_A_CELL = 100
MAX_CELLS = 2_048
SEED = 1


def build(vectors_ND: Floats, quantisation: Quantisation = "none") -> tuple[Any, SearchFile | None]:
    """The FAISS index over L2-normalised vectors, and what searching it needs; None for a flat one."""
    num_items, dim = vectors_ND.shape
    if num_items < GRAPH_FROM:
        flat = faiss.IndexFlatIP(dim)
        flat.add(vectors_ND)
        return flat, None
    if quantisation == "none":
        graph = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    else:
        graph = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.train(vectors_ND)
    graph.hnsw.efConstruction = BUILD_WIDTH
    graph.add(vectors_ND)
    centroids_KD, cell_of_N = _cells(vectors_ND)
    queries_QD, truth_QK = _sample(vectors_ND)
    ef_search, recall = _width(graph, queries_QD, truth_QK, num_proposed(TOP_K, quantisation != "none"))
    rows_nearby = _rows_nearby(centroids_KD, cell_of_N, queries_QD, truth_QK)
    return graph, SearchFile(centroids_KD, cell_of_N, ef_search, ROWS_TO_SCAN, rows_nearby, recall)


def _cells(vectors_ND: Floats) -> tuple[Floats, NDArray[np.uint16]]:
    num_cells = min(MAX_CELLS, len(vectors_ND) // ROWS_A_CELL)
    means = faiss.Kmeans(vectors_ND.shape[1], num_cells, niter=8, spherical=True, max_points_per_centroid=64, seed=SEED)
    means.train(vectors_ND)
    nearest = faiss.IndexFlatIP(vectors_ND.shape[1])
    nearest.add(means.centroids)
    _, cell_of_N1 = nearest.search(vectors_ND, 1)
    return means.centroids, cell_of_N1[:, 0].astype(np.uint16)


def _sample(vectors_ND: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Queries beside items, and their exact answers."""
    random = np.random.default_rng(SEED)
    items = vectors_ND[random.choice(len(vectors_ND), NUM_QUERIES, replace=False)]
    steps = normalise(random.normal(size=items.shape).astype(np.float32))
    queries_QD = normalise(items + NOISE * steps)
    exact = faiss.IndexFlatIP(vectors_ND.shape[1])
    exact.add(vectors_ND)
    return queries_QD, exact.search(queries_QD, TOP_K)[1]


def _width(graph: Any, queries_QD: Floats, truth_QK: NDArray[np.int64], num_proposed: int) -> tuple[int, float]:
    """The least width that reaches a good recall, and that recall, where so many proposals are scored exactly."""
    recall = 0.0
    for width in WIDTHS:
        parameters = faiss.SearchParametersHNSW()
        parameters.efSearch = width
        _, found_QK = graph.search(queries_QD, num_proposed, params=parameters)
        hits = [len(np.intersect1d(found, true)) for found, true in zip(found_QK, truth_QK, strict=True)]
        recall = sum(hits) / truth_QK.size
        if recall >= GOOD_RECALL:
            break
    return width, recall


def _rows_nearby(
    centroids_KD: Floats, cell_of_N: NDArray[np.uint16], queries_QD: Floats, truth_QK: NDArray[np.int64]
) -> int:
    """Rows of the nearest cells that hold a good share of the answers; within what is reasonable to scan."""
    sizes_K = np.bincount(cell_of_N, minlength=len(centroids_KD))
    order_QK = np.argsort(-(queries_QD @ centroids_KD.T), axis=1)
    place_QK = np.argsort(order_QK, axis=1)
    before_QK = np.cumsum(sizes_K[order_QK], axis=1) - sizes_K[order_QK]
    places_QK = np.take_along_axis(place_QK, cell_of_N[truth_QK].astype(np.int64), axis=1)
    needed = np.quantile(np.take_along_axis(before_QK, places_QK, axis=1), GOOD_RECALL, method="higher")
    return int(np.clip(needed + 1, min(LEAST_TO_SCAN, ROWS_TO_SCAN), ROWS_TO_SCAN))
