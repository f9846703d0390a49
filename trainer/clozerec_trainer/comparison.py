"""The model and the baselines side by side: figures with intervals, by kind of case, and which one to choose.

Shapes: C cases, S systems, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from clozerec_trainer.data import Ints, Log
from clozerec_trainer.evaluate import Judge, Ranking
from clozerec_trainer.metrics import (
    SELECTED_BY,
    Metrics,
    beyond_accuracy,
    case_figures,
    interval,
    means,
    resampled_means,
    summarise,
)
from clozerec_trainer.splits import Cases

MODEL = "bert4rec"

HISTORY_LENGTHS = (1, 5, 10, 20, 50, 100)
"""Where the classes of history length begin."""

SEGMENT_CUTOFFS = (10,)

Rankings = Mapping[str, Ranking]
"""By system, simplest first, the model last."""


def compare(
    rankings: Rankings, judge: Judge, train_counts_N: Ints, cutoffs: Sequence[int], seed: int
) -> dict[str, Any]:
    """Everything the report says of one part.

    Returns:
        `systems` figures of each system, `intervals` the 95% interval of each figure, `segments` figures by target
        (cold: without a training event) and by length of history, `beyond_accuracy`.
    """
    log, cases = judge.log, judge.cases
    targets_C = log.rows_E[cases.stops_C]
    return {
        "systems": {name: summarise(ranking.ranks_C, cutoffs) for name, ranking in rankings.items()},
        "intervals": _intervals(rankings, cases, cutoffs, seed) if len(cases) else {},
        "segments": {
            "target": _by_target(rankings, train_counts_N[targets_C] > 0),
            "history_length": _by_history_length(rankings, log, cases),
        },
        "beyond_accuracy": {
            name: beyond_accuracy(ranking.top_CK, targets_C, train_counts_N, len(np.unique(log.rows_E)))
            for name, ranking in rankings.items()
        },
    }


def choose(rankings: Rankings, cases: Cases, seed: int) -> dict[str, Any] | None:
    """The simplest system that validation cannot tell from the best: its interval of the paired difference holds 0.

    Args:
        rankings: of the validation part; choosing by the test would spoil it.
        cases: of the same.
        seed: of the bootstrap.

    Returns:
        `system`, `best`, and for each system `behind` the best: the difference of NDCG@10 and its interval. None: no
        cases, nothing to choose by.
    """
    if not len(cases):
        return None
    names = list(rankings)
    gains_CS = np.stack([case_figures(rankings[name].ranks_C, [10])[SELECTED_BY] for name in names], axis=1)
    best = int(gains_CS.mean(axis=0).argmax())
    behind_CS = gains_CS[:, [best]] - gains_CS
    intervals = [interval(resampled_R) for resampled_R in resampled_means(cases.users_C, behind_CS, seed).T]
    behind = {
        name: {"difference": float(difference), "interval": found}
        for name, difference, found in zip(names, behind_CS.mean(axis=0), intervals, strict=True)
    }
    chosen = next(name for name, found in zip(names, intervals, strict=True) if found[0] <= 0)
    return {"system": chosen, "best": names[best], "figure": SELECTED_BY, "behind": behind}


def _intervals(
    rankings: Rankings, cases: Cases, cutoffs: Sequence[int], seed: int
) -> dict[str, dict[str, list[float]]]:
    figures = {name: case_figures(ranking.ranks_C, cutoffs) for name, ranking in rankings.items()}
    columns = [(system, figure) for system, each in figures.items() for figure in each]
    table_CM = np.stack([figures[system][figure] for system, figure in columns], axis=1)
    resampled_RM = resampled_means(cases.users_C, table_CM, seed)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in rankings}
    for (system, figure), resampled_R in zip(columns, resampled_RM.T, strict=True):
        found[system][figure] = interval(resampled_R)
    return found


def _by_target(rankings: Rankings, is_warm_C: np.ndarray) -> dict[str, Any]:
    chosen = {"cold": ~is_warm_C, "warm": is_warm_C, "total": np.ones(len(is_warm_C), bool)}
    return {name: _segment(rankings, mask_C) for name, mask_C in chosen.items()}


def _by_history_length(rankings: Rankings, log: Log, cases: Cases) -> dict[str, Any]:
    lengths_C = cases.stops_C - log.starts_U1[:-1][cases.users_C]
    class_C = np.searchsorted(HISTORY_LENGTHS, lengths_C, side="right") - 1
    names = [f"{first}-{after - 1}" for first, after in pairwise(HISTORY_LENGTHS)]
    names.append(f"{HISTORY_LENGTHS[-1]}+")
    return {name: _segment(rankings, class_C == index) for index, name in enumerate(names)}


def _segment(rankings: Rankings, mask_C: np.ndarray) -> dict[str, Any]:
    systems: dict[str, Metrics] = {
        name: means(case_figures(ranking.ranks_C[mask_C], SEGMENT_CUTOFFS)) if mask_C.any() else {}
        for name, ranking in rankings.items()
    }
    return {"num_cases": int(mask_C.sum()), "systems": systems}
