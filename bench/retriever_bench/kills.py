"""`kill -9` a hundred times at random moments of upserts and deletes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bundle_factory import make_catalogue, random_vectors, write_bundle
from kill_loop import SCHEMA, State, kill_once

from clozerec_core.bundle import Bundle
from retriever_bench.world import World, verdict

ROUNDS = 100


def loop(world: World, bundle: Bundle, cache: Path) -> None:
    """Over a bundle of two items, for what counts is the journal; `kill_once` fails where something was lost."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        catalogue = make_catalogue({"number": [0, 0], "again": [0, 0]}, SCHEMA)
        small = write_bundle(Path(directory), catalogue, random_vectors(2, 4), [1, 1])
        must_be: State = {}
        acknowledged = sum(kill_once(small, Path(directory) / "state", 1 + n, must_be) for n in range(ROUNDS))
    print(
        f"killed {ROUNDS} times in {time.monotonic() - started:.0f} s: of {acknowledged:,} acknowledged batches none "
        f"lost, nothing deleted is back, no half item  {verdict(acknowledged > 0)}"
    )
