"""Are twenty million events prepared in three minutes and under 4 GiB, and does a catalogue of a million items train?

    python bench/scale.py [MILLIONS_OF_EVENTS] [STEPS]       default: 20 and 20

Synthetic: a million items with content vectors, a million users, text ids, popularity by Zipf's law. Each part runs in
a process of its own, so that its peak memory is its own. The named reference for the preparation is reading the same
columns eagerly with Polars and doing nothing with them.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

DIRECTORY = Path("build") / "bench-scale"
NUM_ITEMS, NUM_USERS, CONTENT_DIM = 1_000_000, 1_000_000, 64
PROMISED_S, PROMISED_GIB = 180, 4
PART = 2_000_000

KEYS = {
    "interactions": "events-*.parquet",
    "user_column": "customer",
    "item_column": "sku",
    "timestamp_column": "time",
    "duplicates": "drop",
    "max_sequence_length": 20,
    "sequence_sampling": "last_window",
    "judged_events": 1_000,
    "baselines": ["popularity"],
}


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ("write", "read", "prepare", "train"):
        {"write": write, "read": read, "prepare": prepare, "train": train}[sys.argv[1]](int(sys.argv[2]))
        return
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    for part, number in (("write", millions), ("read", millions), ("prepare", millions), ("train", steps)):
        subprocess.run([sys.executable, __file__, part, str(number)], check=True)


def write(millions: int) -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for old in DIRECTORY.glob("events-*.parquet"):
        old.unlink()
    generator = np.random.default_rng(0)
    for part in range(0, millions * 1_000_000, PART):
        count = min(PART, millions * 1_000_000 - part)
        items = np.minimum(generator.zipf(1.1, count) - 1, NUM_ITEMS - 1)
        scattered = (items * 48_271) % NUM_ITEMS
        pl.DataFrame(
            {
                "customer": pl.Series(generator.integers(0, NUM_USERS, count)).cast(pl.String) + "-customer",
                "sku": "sku-" + pl.Series(scattered).cast(pl.String),
                "time": 1_700_000_000 + part // 10 + np.sort(generator.integers(0, PART // 10, count)),
            }
        ).write_parquet(DIRECTORY / f"events-{part // PART:03}.parquet")
    print(f"{'wrote':24}{millions} M events", flush=True)


def read(millions: int) -> None:
    began = time.monotonic()
    frame = pl.concat([pl.read_parquet(file) for file in sorted(DIRECTORY.glob("events-*.parquet"))])
    assert frame.height == millions * 1_000_000
    _say("Polars, eager read alone", began)


def prepare(millions: int) -> None:
    from clozerec_trainer.data import read_dataset
    from clozerec_trainer.payload import parse_payload
    from clozerec_trainer.progress import SilentReporter
    from clozerec_trainer.splits import split_log

    began = time.monotonic()
    payload = parse_payload(KEYS, DIRECTORY)
    dataset = read_dataset(payload, SilentReporter())
    split_log(dataset.log, payload)
    seconds, gib = _say("prepared and split", began)
    print(
        f"{'':24}{seconds / PROMISED_S:.2f} of the {PROMISED_S} s, {gib / PROMISED_GIB:.2f} of the {PROMISED_GIB} GiB\n"
        f"{'':24}promised for 20 M; {dataset.log.num_users:,} users, {len(dataset.catalogue):,} items",
        flush=True,
    )


def train(steps: int) -> None:
    import torch

    from clozerec_trainer.data import read_dataset
    from clozerec_trainer.experiment import train_on_split
    from clozerec_trainer.item_features import whiten
    from clozerec_trainer.payload import parse_payload
    from clozerec_trainer.progress import SilentReporter

    class Enough(Exception):
        pass

    class Counter(SilentReporter):
        done, began = 0, 0.0

        def steps(self, what: str, total: int):  # type: ignore[no-untyped-def]
            from contextlib import nullcontext

            self.began = time.monotonic()
            return nullcontext(self._advance)

        def _advance(self, note: str) -> None:
            self.done += 1
            if self.done == steps:
                raise Enough(note)

    payload = parse_payload(KEYS, DIRECTORY)
    dataset = read_dataset(payload, SilentReporter())
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((len(dataset.catalogue), CONTENT_DIM), np.float32)
    content = whiten(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 0)
    counter = Counter()
    try:
        train_on_split(dataset, content, payload, counter)
    except Enough as note:
        seconds = (time.monotonic() - counter.began) / steps
        per_second = payload.batch_size / seconds
        print(
            f"{'trained':24}{steps} steps over {len(dataset.catalogue):,} items on {torch.get_num_threads()} threads: "
            f"{seconds:.2f} s a step, {per_second:.0f} windows/s, {note}; peak {_peak_gib():.2f} GiB",
            flush=True,
        )


def _say(what: str, began: float) -> tuple[float, float]:
    seconds, gib = time.monotonic() - began, _peak_gib()
    print(f"{what:24}{seconds:8.1f} s{gib:8.2f} GiB peak", flush=True)
    return seconds, gib


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
