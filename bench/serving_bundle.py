"""The bundle that serving benchmarks use: MovieLens-1M after one epoch where its data are at hand, else a made-up log.

How accurate the network is changes nothing of how fast it answers. The bundle is kept under build/ for the next run.
"""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl

from clozerec_core.bundle import Bundle
from clozerec_core.errors import BadBundle
from clozerec_trainer.payload import parse_payload, read_preset
from clozerec_trainer.train import train

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml-1m"
OUTPUT = Path("build") / "bench-serving"
KEYS = {
    "interactions": "interactions.parquet",
    "items": "items.parquet",
    "user_column": "user_id",
    "item_column": "item_id",
    "timestamp_column": "timestamp",
    "metadata_columns": ["title", "genres"],
    "display_name": "title",
    "max_sequence_length": 50,
    "sequence_sampling": "sliding_window",
    "sequence_stride": None,
    "training_epochs": 1,
}


def serving_bundle() -> Bundle:
    """Trained at the first call; says on standard output what it is."""
    is_movielens = (DATA / "interactions.parquet").is_file()
    output = OUTPUT / ("ml-1m" if is_movielens else "made-up")
    print("bundle: " + ("MovieLens-1M, one epoch" if is_movielens else f"a made-up log, for {DATA} is missing"))
    try:
        return Bundle.open(output / "current")
    except BadBundle:
        pass
    keys = {**read_preset("movielens-1m"), **KEYS}
    if is_movielens:
        return train(parse_payload({**keys, "list_columns": {"genres": "|"}}, DATA), output).bundle
    return train(parse_payload(keys, _made_up(output / "data")), output).bundle


def _made_up(directory: Path) -> Path:
    """3,000 items, 2,000 people who walk among neighbours."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    events = []
    for person in range(2_000):
        place = rng.randrange(3_000)
        for step in range(rng.randrange(20, 100)):
            place = (place + rng.randrange(1, 5)) % 3_000
            events.append(
                {"user_id": str(person), "item_id": str(place), "timestamp": 1_700_000_000 + person * 100 + step}
            )
    pl.DataFrame(events).write_parquet(directory / "interactions.parquet")
    words = ["red", "blue", "old", "new", "small", "large", "lamp", "chair", "table", "clock", "river", "garden"]
    items = [
        {"item_id": str(n), "title": " ".join(rng.sample(words, 4)) + f" {n}", "genres": [rng.choice(words)]}
        for n in range(3_000)
    ]
    pl.DataFrame(items).write_parquet(directory / "items.parquet")
    return directory
