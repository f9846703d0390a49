"""The network, the bundle and the lengths that all sections measure with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from encoder_bundle import random_network, write_encoder_bundle

from clozerec_core.bundle import Bundle
from clozerec_trainer.model import NetworkSpec, SequenceNetwork

MAX_ITEMS = 50
SPEC = NetworkSpec(dim=64, num_positions=MAX_ITEMS + 1, depth=2, heads=4, dropout=0.1, use_attention_mask=True)
NUM_ITEMS = 10_000
RANDOM = np.random.default_rng(0)
DATA_DIR = Path(__file__).parents[3] / "shared" / "data"


def network() -> SequenceNetwork:
    return random_network(SPEC)


def bundle(scratch: Path) -> Bundle:
    return write_encoder_bundle(scratch, network(), NUM_ITEMS)


def real_lengths(data: str) -> np.ndarray | None:
    """Items of each person's history, at most 50; None where the data is not there."""
    path = DATA_DIR / data / "interactions.parquet"
    if not path.is_file():
        return None
    frame = pl.read_parquet(path)
    counts = frame.group_by("user_id").len()["len"].to_numpy()
    return np.minimum(counts, MAX_ITEMS).astype(int)


def say(what: str, figure: str, ratio: float, reference: str, wanted: str = "") -> None:
    """One line of the result."""
    print(
        f"{what:42s} {figure:>12s} {ratio:6.2f} x {reference}" + (f"   (wanted: {wanted})" if wanted else ""),
        flush=True,
    )
