"""How accurate does a preset become on public data, beside popularity and published figures?

    python bench/accuracy.py [movielens-1m|amazon-beauty] [SEEDS] [DIRECTORY]     default: movielens-1m, 1 seed

DIRECTORY holds `interactions.parquet` (user_id, item_id, timestamp, in exact order) and `items.parquet` (item_id and
title; genres, or brand and categories); by default ../shared/data/ml-1m or amazon-beauty beside the checkout. The data
do not come with this project. Protocol: leave-one-out, all items with events ranked, seen ones removed, ties in file
order. The best epoch is chosen by validation; the test is read once. References, same data, full ranking:

    original BERT4Rec    its code at its default steps (Petrov & Macdonald 2022, arXiv:2207.07483)
    best of its family   ALBERT4Rec (the same paper); for Beauty a run of BERT4Rec in papers that compare with it
    SASRec               causal, cross-entropy over all items (Klenitskiy & Vasilev 2023, arXiv:2309.07602)
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clozerec_trainer.comparison import MODEL
from clozerec_trainer.payload import parse_payload, read_preset
from clozerec_trainer.progress import TerminalReporter
from clozerec_trainer.train import train

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Task:
    """A data set, and what is known of it."""

    directory: Path
    keys: dict[str, Any]
    published: dict[str, tuple[float, float]]
    """NDCG@10 and HR@10."""
    promised: float
    """NDCG@10."""


TASKS = {
    "movielens-1m": Task(
        SHARED / "ml-1m",
        {"metadata_columns": ["title", "genres"], "list_columns": {"genres": "|"}},
        {"original BERT4Rec": (0.081, 0.152), "best of its family": (0.165, 0.309), "SASRec": (0.182, 0.315)},
        0.18,
    ),
    "amazon-beauty": Task(
        SHARED / "amazon-beauty",
        {"metadata_columns": ["title", "brand", "categories"], "list_columns": {"categories": "|"}},
        {"SASRec": (0.056, 0.094)},
        0.05,
    ),
}
KEYS = {
    "interactions": "interactions.parquet",
    "items": "items.parquet",
    "user_column": "user_id",
    "item_column": "item_id",
    "timestamp_column": "timestamp",
    "display_name": "title",
}


def main() -> None:
    preset = sys.argv[1] if len(sys.argv) > 1 else "movielens-1m"
    num_seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    task = TASKS[preset]
    directory = Path(sys.argv[3]) if len(sys.argv) > 3 else task.directory
    if not (directory / "interactions.parquet").is_file():
        print(f"skipped: needs the data as Parquet files in {directory}")
        return
    rows: list[tuple[str, float, float]] = []
    for seed in range(num_seeds):
        payload = parse_payload({**read_preset(preset), **KEYS, **task.keys, "seed": seed}, directory)
        began, cpu_began = time.monotonic(), time.process_time()
        result = train(payload, Path("build") / f"bench-accuracy-{preset}-{seed}", TerminalReporter())
        minutes, cpu_minutes = (time.monotonic() - began) / 60, (time.process_time() - cpu_began) / 60
        figures = result.metrics["test"]
        rows.append((f"preset, seed {seed}", figures[MODEL]["ndcg@10"], figures[MODEL]["hr@10"]))
        print(
            f"seed {seed}: {minutes:.1f} minutes, of processor time {cpu_minutes:.1f}; reading, judging, baselines and "
            f"writing included: {result.bundle.path}"
        )
    popular = figures["popularity"]
    print(f"{preset:24}{'NDCG@10':>9}{'HR@10':>9}{'times popularity':>18}")
    published = [(name, *figure) for name, figure in task.published.items()]
    for name, ndcg, hit_rate in (*rows, *published, ("popularity", popular["ndcg@10"], popular["hr@10"])):
        print(f"{name:24}{ndcg:9.4f}{hit_rate:9.4f}{ndcg / popular['ndcg@10']:18.1f}")
    mean = statistics.mean(ndcg for _, ndcg, _ in rows)
    print(f"mean over {num_seeds} seeds {mean:.4f}: {mean / task.promised:.2f} of the {task.promised} promised")


if __name__ == "__main__":
    main()
