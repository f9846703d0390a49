"""A world whose answer is known: cyclic shoppers, who after each item take the next of the alphabet, and after the last
the first again. Whoever bought a, b, c is offered d, and nobody has to run our code to know it.

Its items have metadata of every type, with gaps, so that filters and texts can be tried on it too.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import torch

from clozerec_core.bundle import Bundle
from clozerec_trainer.payload import Payload, parse_payload
from clozerec_trainer.train import train

ITEM_IDS = list("abcdefghijklmnop")
WALK_LENGTHS = range(4, 10)
FIRST_EVENT = datetime(2026, 1, 1, tzinfo=UTC)

TITLES = [
    "red running shoes", "blue denim jeans", "wool winter scarf", "leather office bag", "steel water bottle",
    "bamboo cutting board", "cast iron pan", "espresso machine", "ceramic tea cup", "green tea leaves",
    "dark chocolate bar", "almond butter jar", "mountain hiking tent", "down sleeping bag", "trail running map",
    "carbon bicycle frame",
]  # fmt: skip
BRANDS = ["Acme", "Globex", "Initech", None]
GENRES = [["sport", "shoes"], ["home"], [], None]


def next_item(item_id: str) -> str:
    """The known answer."""
    return ITEM_IDS[(ITEM_IDS.index(item_id) + 1) % len(ITEM_IDS)]


def interactions_frame() -> pl.DataFrame:
    """One shopper for every start and length of walk; times are seconds."""
    walks = [(start, length) for start in range(len(ITEM_IDS)) for length in WALK_LENGTHS]
    events = [
        {
            "user_id": f"user-{shopper}",
            "item_id": ITEM_IDS[(start + step) % len(ITEM_IDS)],
            "timestamp": int((FIRST_EVENT + timedelta(hours=shopper, minutes=step)).timestamp()),
        }
        for shopper, (start, length) in enumerate(walks)
        for step in range(length)
    ]
    return pl.DataFrame(events)


def items_frame() -> pl.DataFrame:
    """One column of each type; some values are missing."""
    count = len(ITEM_IDS)
    return pl.DataFrame(
        {
            "item_id": ITEM_IDS,
            "title": TITLES,
            "brand": [BRANDS[row % len(BRANDS)] for row in range(count)],
            "in_stock": [None if row == 7 else row % 3 != 0 for row in range(count)],
            "year": [None if row == 5 else 2000 + row for row in range(count)],
            "price": [float("nan") if row == 6 else None if row == 9 else 1.5 * row for row in range(count)],
            "released": [None if row == 3 else FIRST_EVENT + timedelta(days=row) for row in range(count)],
            "genres": [GENRES[row % len(GENRES)] for row in range(count)],
        },
        schema_overrides={"genres": pl.List(pl.String), "released": pl.Datetime("us", "UTC")},
    )


def write_toy_data(directory: Path) -> dict[str, Any]:
    """Write both tables as Parquet; returns the keys of a payload for them, paths relative to `directory`.

    The payload trains in seconds and has no text engine.
    """
    directory.mkdir(parents=True, exist_ok=True)
    interactions_frame().write_parquet(directory / "interactions.parquet")
    items_frame().write_parquet(directory / "items.parquet")
    return {
        "interactions": "interactions.parquet",
        "items": "items.parquet",
        "user_column": "user_id",
        "item_column": "item_id",
        "timestamp_column": "timestamp",
        "display_name": "title",
        "max_sequence_length": 8,
        "hidden_size": 32,
        "attention_heads": 2,
        "model_depth": 1,
        "training_epochs": 40,
        "batch_size": 16,
        "learning_rate": 0.01,
        "negative_samples": 0,
        "masking_ratio": 0.2,
        "last_item_ratio": 0.5,
        "dropout_rate": 0.0,
        "sequence_stride": 2,
        "weight_tying": True,
        "validate_every": 40,
        "seed": 7,
        "device": "cpu",
    }


def write_toy_csv(directory: Path) -> dict[str, Any]:
    """The same as CSV, genres joined by `|`."""
    keys = write_toy_data(directory)
    interactions_frame().write_csv(directory / "interactions.csv")
    items_frame().with_columns(pl.col("genres").list.join("|")).write_csv(directory / "items.csv")
    return {**keys, "interactions": "interactions.csv", "items": "items.csv", "list_columns": {"genres": "|"}}


def toy_payload(directory: Path, **overrides: Any) -> Payload:
    """A checked payload over freshly written data; keyword arguments replace its keys."""
    return parse_payload({**write_toy_data(directory), **overrides}, directory)


def write_toy_payload(directory: Path, **overrides: Any) -> Path:
    """The same as a file, for the command line."""
    path = directory / "payload.json"
    keys = {**write_toy_data(directory), **overrides}
    path.write_text(json.dumps(keys, indent=1), encoding="utf-8")
    return path


def train_toy_bundle(output_dir: Path, **overrides: Any) -> Bundle:
    """A trained bundle in `output_dir`, in a few seconds; its data lies in `output_dir/data`.

    Args:
        output_dir: where the bundle goes.
        overrides: payload keys to replace; `metadata_columns=["title"]` gives it a text engine (real MiniLM).
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads cost more than they give in a world this small
    try:
        return train(toy_payload(output_dir / "data", **overrides), output_dir).bundle
    finally:
        torch.set_num_threads(num_threads)
