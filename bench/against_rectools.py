"""How much sooner is the best accuracy of RecTools' BERT4Rec reached? MovieLens-1M, the same split, the same judge.

    python bench/against_rectools.py [MINUTES] [small|default] [DIRECTORY]     default: 15, small, ../shared/data/ml-1m

RecTools trains for MINUTES, then ours until it is as good or the time is up; judging is not counted, nor is the
embedding of texts, which is printed. After every epoch both are judged on leave-one-out's validation: all items ranked,
seen ones removed, NDCG@10 over everybody. The named reference is RecTools 0.19.0: `small` has 64 dims and length 50,
`default` is as it comes (256 dims, length 100). It runs in an environment of its own, build/rectools-venv, made at the
first call (minutes); `rectools_peer.py` is what runs there.
RecTools ranks the films that it was trained on, ours all that have events.
DIRECTORY holds MovieLens-1M as for bench/accuracy.py; the data are not part of this project.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import polars as pl

from clozerec_trainer.content import content_of
from clozerec_trainer.data import Dataset, read_dataset
from clozerec_trainer.experiment import train_on_split
from clozerec_trainer.item_features import DEFAULT_CACHE_DIR
from clozerec_trainer.payload import Payload, parse_payload, read_preset
from clozerec_trainer.progress import SilentReporter
from clozerec_trainer.splits import split_log

PRESET = "movielens-1m"
VERSION = "0.19.0"
PROMISED_SHARE = 1 / 5
SIZES = {"small": {"n_factors": 64, "session_max_len": 50}, "default": {}}
BUILD = Path("build") / "bench-rectools"
VENV = Path("build") / "rectools-venv"
PEER = Path(__file__).with_name("rectools_peer.py")

Curve = list[tuple[float, float]]
"""Seconds of training and validation NDCG@10 after each epoch."""


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 15
    size = sys.argv[2] if len(sys.argv) > 2 else "small"
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml-1m"
    directory = Path(sys.argv[3]) if len(sys.argv) > 3 else default
    if not (directory / "interactions.parquet").is_file():
        print(f"skipped: needs MovieLens-1M as Parquet files in {directory}")
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    if not (VENV / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        packages = [f"rectools[torch]=={VERSION}", "torch==2.13.0"]
        subprocess.run([str(VENV / "bin" / "pip"), "install", "--quiet", *packages], check=True)
        (VENV / "ready").touch()
    prepared = prepare(directory)
    command = [str(VENV / "bin" / "python"), str(PEER), str(BUILD), str(60 * minutes), json.dumps(SIZES[size])]
    subprocess.run(command, check=True)
    theirs: Curve = [tuple(point) for point in json.loads((BUILD / "peer.json").read_text())]
    target_s, target = max(theirs, key=lambda point: point[1])
    ours, embedding_s = train_ours(60 * minutes, target, *prepared)
    print(f"\n{'validation NDCG@10':28}{'best':>9}{'after':>10}{'epochs':>8}")
    for name, curve in ((f"RecTools {VERSION}, {size}", theirs), (f"preset {PRESET}", ours)):
        best = max(curve, key=lambda point: point[1])
        print(f"{name:28}{best[1]:9.4f}{best[0]:8.0f} s{len(curve):8}")
    reached_s = next((seconds for seconds, figure in ours if figure >= target), math.inf)
    print(
        f"ours reaches RecTools' best after {reached_s:.0f} s: {reached_s / target_s:.2f} of its time "
        f"(promised {PROMISED_SHARE:.2f}); embedding the texts took {embedding_s:.0f} s more"
    )


def prepare(directory: Path) -> tuple[Dataset, Payload]:
    """The data and the preset; the same split is written down for the peer."""
    keys = {
        "interactions": "interactions.parquet",
        "items": "items.parquet",
        "user_column": "user_id",
        "item_column": "item_id",
        "timestamp_column": "timestamp",
        "metadata_columns": ["title", "genres"],
        "list_columns": {"genres": "|"},
        "validate_every": 1,
    }
    payload = parse_payload({**read_preset(PRESET), **keys}, directory)
    dataset = read_dataset(payload, SilentReporter())
    log, split = dataset.log, split_log(dataset.log, payload)
    users = [user for user, length in enumerate(log.lengths_U) for _ in range(length)]
    # Places in the log instead of times: whatever sorts by them keeps our order.
    events = pl.DataFrame({"user_id": users, "item_id": log.rows_E, "place": range(len(users))})
    events[split.train_events].write_csv(BUILD / "train.csv")
    events[split.validation.stops_C].write_csv(BUILD / "targets.csv")
    return dataset, payload


class Enough(Exception):
    """The goal is reached, or the time is up."""


class Listener(SilentReporter):
    """Writes the curve down, and ends the training where it is enough."""

    def __init__(self, budget_s: float, target: float) -> None:
        self.curve: Curve = []
        self.seconds = 0.0
        self._budget_s = budget_s
        self._target = target

    def say(self, event: str, **facts: object) -> None:
        if event != "epoch_done":
            return
        self.seconds += float(str(facts["seconds"]))
        figure = float(str(facts["validation_ndcg@10"]))
        self.curve.append((self.seconds, figure))
        print(f"ours      {self.seconds:7.0f} s   {figure:.4f}", flush=True)
        if self.seconds > self._budget_s or figure >= self._target:
            raise Enough


def train_ours(budget_s: float, target: float, dataset: Dataset, payload: Payload) -> tuple[Curve, float]:
    """The curve until the target is reached, and the seconds that the texts took."""
    began = time.monotonic()
    content, _ = content_of(dataset, payload, DEFAULT_CACHE_DIR, SilentReporter())
    embedding_s = time.monotonic() - began
    listener = Listener(budget_s, target)
    with suppress(Enough):
        train_on_split(dataset, content, payload, listener)
    return listener.curve, embedding_s


if __name__ == "__main__":
    main()
