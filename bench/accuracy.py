"""How accurate is what ten minutes of training give on MovieLens-1M, beside popularity and a published reference?

    python bench/accuracy.py [DIRECTORY]          default: ../shared/data/ml-1m beside the checkout

DIRECTORY holds `interactions.parquet` (user_id, item_id, timestamp, in exact order) and `items.parquet` (item_id,
title, genres). The data are GroupLens's and do not come with this project. Protocol: leave-one-out, every film ranked,
seen ones removed, ties in file order. Reference: BERT4Rec's original code at its default steps on the same data, full
ranking (Petrov & Macdonald 2022, arXiv:2207.07483).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from clozerec_trainer.payload import parse_payload, read_preset
from clozerec_trainer.progress import TerminalReporter
from clozerec_trainer.train import train

PRESET = "movielens-1m"
ORIGINAL_NDCG, ORIGINAL_HR = 0.081, 0.152
PROMISED_NDCG, PROMISED_MINUTES = 0.12, 10


def main() -> None:
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml-1m"
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if not (directory / "interactions.parquet").is_file():
        print(f"skipped: needs MovieLens-1M as Parquet files in {directory}")
        return
    keys = {
        "interactions": "interactions.parquet",
        "items": "items.parquet",
        "user_column": "user_id",
        "item_column": "item_id",
        "timestamp_column": "timestamp",
        "metadata_columns": ["title", "genres"],
        "list_columns": {"genres": "|"},
        "display_name": "title",
    }
    payload = parse_payload({**read_preset(PRESET), **keys}, directory)
    began = time.monotonic()
    result = train(payload, Path("build") / "bench-accuracy", TerminalReporter())
    minutes = (time.monotonic() - began) / 60
    figures = result.metrics["test"]
    ours, popular = figures["bert4rec"], figures["popularity"]
    print(f"{'':24}{'NDCG@10':>9}{'HR@10':>9}{'times popularity':>18}")
    for name, ndcg, hit_rate in (
        (f"preset {PRESET}", ours["ndcg@10"], ours["hr@10"]),
        ("original BERT4Rec", ORIGINAL_NDCG, ORIGINAL_HR),
        ("popularity", popular["ndcg@10"], popular["hr@10"]),
    ):
        print(f"{name:24}{ndcg:9.4f}{hit_rate:9.4f}{ndcg / popular['ndcg@10']:18.1f}")
    share = minutes / PROMISED_MINUTES
    print(
        f"{minutes:.1f} minutes, reading, judging and writing included: {share:.2f} of the {PROMISED_MINUTES} promised "
        f"for {PROMISED_NDCG}\n{result.bundle.path}"
    )


if __name__ == "__main__":
    main()
