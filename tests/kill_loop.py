"""kill -9 at random moments while a process upserts and deletes: all that was acknowledged is there, nothing half.

Each change is printed before it is sent and after it is acknowledged, so that the parent knows what may and must be in
the journal. Every batch of the child touches the same few items again and again; an item carries its number in two
columns, so a half item would show.

    python tests/kill_loop.py BUNDLE STATE_DIR SEED [REDIS_URL]     the child: prints, until it is killed
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import ColumnType
from clozerec_retriever.journal import Journal
from clozerec_retriever.records import Change, Drop, Put
from clozerec_retriever.replica import Replica
from clozerec_retriever.retriever import Retriever, Selection
from clozerec_retriever.shared_log import SharedLog
from clozerec_retriever.shelf import Shelf
from clozerec_retriever.writer import JournalWriter

SCHEMA = {"number": ColumnType.INTEGER, "again": ColumnType.INTEGER}
NUM_ITEMS, BATCH = 200, 50
DELETED = -1

State = dict[str, int]
"""Item to its number; DELETED where it was deleted."""


def write_until_killed(bundle_path: Path, state_dir: Path, seed: int, *redis_url: str) -> None:
    """The child."""
    shelf = Shelf(Retriever.open(Bundle.open(bundle_path)))
    journal = Journal(state_dir)
    replica = Replica(journal, SharedLog(*redis_url)) if redis_url else None
    for _ in replica.news() if replica else ():
        pass
    shelf.current.live.replay(journal.records())
    writer = JournalWriter(journal, shelf.show, shelf.tidy, replica)
    chance = random.Random(seed)
    number = seed * 1_000_000
    while True:
        number += 1
        batch: dict[str, Change] = {}
        for place in chance.sample(range(NUM_ITEMS), BATCH):
            item_id = f"item {place}"
            gone = chance.random() < 0.3
            cells = {"number": number, "again": number}
            batch[item_id] = Drop(item_id) if gone else Put(item_id, cells, content=np.empty(0, np.float32))
        said = ",".join(
            f"{item_id.split()[1]}:{number if isinstance(batch[item_id], Put) else DELETED}" for item_id in batch
        )
        print(f"sending {said}", flush=True)
        writer.submit(list(batch.values()), SCHEMA, lambda _: False).result()
        print("done", flush=True)


def kill_once(bundle: Bundle, state_dir: Path, seed: int, must_be: State, *redis_url: str) -> int:
    """Run a child, kill it at a random moment, and check what it left; the number of acknowledged batches.

    Args:
        bundle: what the child serves.
        state_dir: its journal, kept from kill to kill.
        seed: of the child's changes and of the moment; higher than any before.
        must_be: what is acknowledged; brought up to date.
        redis_url: of the log that the child shares; then what it left is also what one that starts anew finds there.
    """
    command = [sys.executable, __file__, str(bundle.path), str(state_dir), str(seed), *redis_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline()]  # it has begun
        time.sleep(random.Random(seed).random() * 0.2)
        child.kill()
        lines += child.stdout.readlines()
    may_be: State = {}
    num_done = 0
    for line in lines:
        if line.startswith("sending ") and line.endswith("\n"):
            pairs = [pair.split(":") for pair in line.removeprefix("sending ").split(",")]
            may_be = {f"item {place}": int(number) for place, number in pairs}
        elif line == "done\n":
            must_be |= may_be
            may_be = {}
            num_done += 1
    found = left_in(bundle, state_dir, *redis_url)
    if redis_url:
        with TemporaryDirectory() as empty:
            assert left_in(bundle, Path(empty), *redis_url) == found
    for item_id in must_be | may_be:
        allowed = {must_be.get(item_id, DELETED), may_be.get(item_id, must_be.get(item_id, DELETED))}
        assert found.get(item_id, DELETED) in allowed, f"{item_id} is {found.get(item_id)}, not one of {allowed}"
    landed = [
        found.get(item_id, DELETED) == number
        for item_id, number in may_be.items()
        if must_be.get(item_id, DELETED) != number
    ]
    assert all(landed) or not any(landed), "a batch is there in part"
    must_be |= {item_id: found.get(item_id, DELETED) for item_id in may_be}
    return num_done


def left_in(bundle: Bundle, state_dir: Path, *redis_url: str) -> State:
    """What a retriever that starts over the journal answers."""
    retriever = Retriever.open(bundle)
    journal = Journal(state_dir)
    for _ in Replica(journal, SharedLog(*redis_url)).news() if redis_url else ():
        pass
    retriever.live.replay(journal.records())
    journal.close()
    found: State = {}
    for row in retriever.popular(Selection(top_k=1_000)).ranking.rows.tolist():
        cells = retriever.live.metadata(row, tuple(SCHEMA))
        if not retriever.live.is_day_zero(row):
            continue
        assert cells["number"] == cells["again"], "half an item"
        found[retriever.live.item_id(row)] = int(str(cells["number"]))
    return found


if __name__ == "__main__":
    write_until_killed(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
