"""Are new items ranked by their text, and do known ones lose nothing by it? Amazon Beauty, split by time.

    python bench/cold_start.py [DIRECTORY] [EPOCHS] [SEEDS]     default: ../shared/data/amazon-beauty, the preset's, 1

Three systems on the same cases: the hybrid, the same network with ids alone, and the nearest items by text. Training
has the first eight tenths of the events, validation the ninth; the test is every later event whose user has a past.
Cold: no training event shows the item. Reference: ids alone. NDCG@10, all items ranked, seen ones removed.
DIRECTORY holds `interactions.parquet` (user_id, item_id, timestamp) and `items.parquet` (item_id, title, brand,
categories); the data are not part of this project.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from clozerec_trainer.comparison import MODEL
from clozerec_trainer.content import content_of
from clozerec_trainer.data import read_dataset
from clozerec_trainer.experiment import judge_model, train_on_split
from clozerec_trainer.item_features import DEFAULT_CACHE_DIR
from clozerec_trainer.payload import parse_payload, preset_names, read_preset
from clozerec_trainer.progress import TerminalReporter

WITHOUT_PRESET = {
    "training_epochs": 16,
    "learning_rate": 0.002,
    "dropout_rate": 0.4,
    "masking_ratio": 0.3,
    "causal_ratio": 0.5,
    "weight_tying": True,
    "negative_samples": 0,
    "behaviour_dropout": 0.3,
}
KEYS = {
    "interactions": "interactions.parquet",
    "items": "items.parquet",
    "user_column": "user_id",
    "item_column": "item_id",
    "timestamp_column": "timestamp",
    "list_columns": {"categories": "|"},
    "split": "global_time",
}
TEXTS = {"metadata_columns": ["title", "brand", "categories"]}
FIGURE, ROWS = "ndcg@10", ("cold", "warm", "total")


def main() -> None:
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "amazon-beauty"
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if not (directory / "interactions.parquet").is_file():
        print(f"skipped: needs Amazon Beauty as Parquet files in {directory}")
        return
    preset = next((name for name in preset_names() if "beauty" in name), None)
    keys: dict[str, Any] = {**(read_preset(preset) if preset else WITHOUT_PRESET), **KEYS}
    if len(sys.argv) > 2:
        keys["training_epochs"] = int(sys.argv[2])
    seeds = range(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    runs = [_run(keys | {"seed": seed}, directory) for seed in seeds]
    systems = {name: np.array([[run[name][row] for row in ROWS] for run in runs]) for name in runs[0]}
    print(f"{'Amazon Beauty, by time':24}" + "".join(f"{row:>18}" for row in ROWS) + f"{'total / ids only':>18}")
    for name, figures in systems.items():
        means, spread = figures.mean(axis=0), figures.std(axis=0)
        shown = "".join(f"{mean:11.4f} ±{deviation:.4f}" for mean, deviation in zip(means, spread, strict=True))
        print(f"{name:24}{shown}{means[-1] / systems['ids only'].mean(axis=0)[-1]:18.2f}")
    print(f"± over {len(runs)} seeds")


def _run(keys: dict[str, Any], directory: Path) -> dict[str, dict[str, float]]:
    """NDCG@10 by row of each system, for one seed."""
    found: dict[str, dict[str, float]] = {}
    for name, more in (("ids only", {"baselines": []}), ("hybrid", {**TEXTS, "baselines": ["content_knn"]})):
        payload = parse_payload({**keys, **more}, directory)
        reporter = TerminalReporter()
        dataset = read_dataset(payload, reporter)
        content, _ = content_of(dataset, payload, DEFAULT_CACHE_DIR, reporter)
        model, fitted = train_on_split(dataset, content, payload, reporter)
        figures = judge_model(model, dataset, content, payload, fitted.best_epoch, reporter).figures
        for row, segment in figures["segments"]["test"]["target"].items():
            print(f"{name}, {row}: {segment['num_cases']} cases", file=sys.stderr)
            for system, each in segment["systems"].items():
                label = name if system == MODEL else "content-kNN"
                found.setdefault(label, {})[row] = each[FIGURE]
    return found


if __name__ == "__main__":
    main()
