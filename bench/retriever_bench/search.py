"""Recall and latency at every pass rate, beside raw FAISS and Qdrant's engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from clozerec_core.bundle import Bundle
from clozerec_core.hybrid import Floats
from clozerec_retriever.ranking import SCORE_STEP
from clozerec_retriever.retriever import Retriever, Selection
from retriever_bench.qdrant import Search, search_of, shard_of
from retriever_bench.world import BANDS, DIM, World, verdict, where

TOP_K, WARM, ROUNDS = 10, 20, 4
GOOD_RECALL, EXACT_UP_TO, LONGEST_MS = 0.99, 10_000, 3.0


@dataclass(frozen=True)
class Truth:
    """The exact answers: Q queries."""

    mask: NDArray[np.bool_]
    kth_Q: NDArray[np.float32]
    """The k-th best score, or the last one's where fewer pass."""
    num_best: int


class Contender:
    """One engine under one filter."""

    def __init__(self, search: Search, clock: Callable[[], float]) -> None:
        self._search = search
        self._clock = clock
        self._times_ms: list[float] = []
        self._rows: list[list[int]] = []

    def warm(self, queries: Floats) -> None:
        for query in queries[:WARM]:
            self._search(query)

    def run(self, queries: Floats) -> None:
        for query in queries:
            started = self._clock()
            rows = self._search(query)
            self._times_ms.append((self._clock() - started) * 1e3)
            self._rows.append(rows)

    @property
    def median_ms(self) -> float:
        return float(np.median(self._times_ms))

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self._times_ms, 99))

    def recall(self, world: World, truth: Truth) -> float:
        hits = 0
        for query, rows, kth in zip(world.queries, self._rows, truth.kth_Q, strict=True):
            distinct = np.unique(np.array(rows, np.int64))
            good = world.vectors[distinct].astype(np.float64) @ query.astype(np.float64) >= float(kth) - SCORE_STEP
            hits += int(np.count_nonzero(good & truth.mask[distinct]))
        return hits / (truth.num_best * len(self._rows))

    def never_short(self, truth: Truth) -> bool:
        return all(len(rows) >= truth.num_best for rows in self._rows)


def build(world: World, bundle: Bundle, cache: Path) -> None:
    """The bundle is there; Qdrant's shard too now."""
    shard_of(world, cache)


def beside_others(world: World, bundle: Bundle, cache: Path) -> None:
    retriever = Retriever.open(bundle)
    retriever.warm_up()
    shard = shard_of(world, cache)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(world.vectors)
    print("                             ours                 |   flat FAISS    |        qdrant-edge       |")
    print("      filter  passing   median    p99  recall  how |  median    p99  |  median    p99  recall   |  ratio")
    lines = [
        _line(world, retriever, shard, flat, column, band)
        for column, band in [("", 10_000), *((column, band) for column in world.place for band in BANDS)]
    ]
    print(f"{sum(lines)} of {len(lines)} lines hold")


def _line(world: World, retriever: Retriever, shard: Any, flat: Any, column: str, band: int) -> bool:
    mask = world.mask(column, band)
    selection = Selection(TOP_K, where(column, band))
    packed = np.packbits(mask, bitorder="little")
    parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(packed)) if column else None
    plans: list[str] = []

    def ours(query: Floats) -> list[int]:
        found = retriever.search_by_vector(query, selection)
        plans.append(found.plan.value if found.plan else "")
        return found.ranking.rows.tolist()

    def raw(query: Floats) -> list[int]:
        return [row for row in flat.search(query.reshape(1, -1), TOP_K, params=parameters)[1][0].tolist() if row >= 0]

    num_best = min(TOP_K, int(np.count_nonzero(mask)))
    truth = Truth(mask, flat.search(world.queries, TOP_K, params=parameters)[0][:, num_best - 1], num_best)
    our, of_faiss, *others = contenders = [Contender(search, world.clock) for search in (ours, raw)]
    if shard is not None:
        others.append(Contender(search_of(shard, column, band, TOP_K), world.clock))
        contenders += others
    for contender in contenders:
        contender.warm(world.queries)
    plans.clear()
    # By turns, so that what else the machine does hits all alike.
    for queries in np.array_split(world.queries, ROUNDS):
        for contender in contenders:
            contender.run(queries)
    recall = our.recall(world, truth)
    least = 1.0 if np.count_nonzero(mask) <= EXACT_UP_TO else GOOD_RECALL
    holds = recall >= least and our.never_short(truth)
    holds &= our.p99_ms < LONGEST_MS or len(world) < 1_000_000
    name = f"{column} {band / 100:g}%" if column else "none"
    most_used = max(set(plans), key=plans.count)
    line = (
        f"{name:>12} {np.count_nonzero(mask):>8,} {our.median_ms:8.3f} {our.p99_ms:6.2f} {recall:7.4f} {most_used:>5}"
    )
    line += f" | {of_faiss.median_ms:7.3f} {of_faiss.p99_ms:6.2f} "
    for other in others:
        line += f" | {other.median_ms:7.3f} {other.p99_ms:6.2f} {other.recall(world, truth):7.4f} "
        line += f" | {our.median_ms / other.median_ms:6.2f}"
        holds &= our.median_ms < other.median_ms
    print(f"{line}  {verdict(holds)}", flush=True)
    return holds
