"""What survives: kill -9, a torn log, a damaged row, a full disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import make_catalogue, random_vectors, write_bundle
from kill_loop import SCHEMA, State, kill_once
from structlog.testing import capture_logs

from clozerec_core.errors import BadJournal, StorageFull
from clozerec_retriever.journal import JOURNAL_FILE, Journal
from clozerec_retriever.records import Drop, Put


def never(_: str) -> bool:
    return False


def put(item_id: str, number: int = 1) -> Put:
    return Put(item_id, {"number": number, "again": number}, content=np.ones(3, np.float32), text_model="m", text="t")


def numbers(directory: Path) -> dict[str, object]:
    journal = Journal(directory)
    found = {record.item_id: None if record.deleted else record.cells["number"] for record in journal.records()}
    journal.close()
    return found


def test_kill_nine_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A hundred times in bench/retriever.py."""
    catalogue = make_catalogue({"number": [0, 0], "again": [0, 0]}, SCHEMA)
    bundle = write_bundle(tmp_path, catalogue, random_vectors(2, 4), [1, 1])
    must_be: State = {}
    assert sum(kill_once(bundle, tmp_path / "state", seed, must_be) for seed in range(1, 5)) > 0


def test_a_torn_log_is_replayed_to_its_last_whole_change_and_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        journal.commit([put(f"item {number}")], SCHEMA, never)
    copy = tmp_path / "torn"
    copy.mkdir()
    for name in (JOURNAL_FILE, f"{JOURNAL_FILE}-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    journal.close()
    log = copy / f"{JOURNAL_FILE}-wal"
    log.write_bytes(log.read_bytes()[:-100])
    with capture_logs() as said:
        assert numbers(copy) == {"item 0": 1, "item 1": 1}
    assert [line["event"] for line in said] == ["journal_tail_torn"]
    with capture_logs() as said:
        assert len(numbers(copy)) == 2
    assert said == []


def test_a_damaged_row_is_left_out_and_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.commit([put("sound"), put("hurt")], SCHEMA, never)
    journal.close()
    connection = sqlite3.connect(tmp_path / JOURNAL_FILE)
    connection.execute("UPDATE items SET cells = '{\"number\":2,\"again\":2}' WHERE item_id = 'hurt'")
    connection.commit()
    connection.close()
    with capture_logs() as said:
        assert numbers(tmp_path) == {"sound": 1}
    assert [(line["event"], line["item_id"]) for line in said] == [("journal_row_damaged", "hurt")]


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).write_bytes(b"not a database at all, not even a small one" * 100)
    with capture_logs(), pytest.raises(BadJournal, match=r"catalogue\.sqlite in the retriever's state directory"):
        Journal(tmp_path)


def test_a_full_disk_is_said_clearly_and_leaves_what_was_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.commit([put("before")], SCHEMA, never)
    (size,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {size}")
    with pytest.raises(StorageFull, match="disk of the catalogue's journal is full"):
        journal.commit([put(f"item {number}") for number in range(1_000)], SCHEMA, never)
    journal._connection.execute("PRAGMA max_page_count = 100000")
    assert [record is not None for record in journal.commit([put("after"), Drop("before")], SCHEMA, never)] == [
        True
    ] * 2
    journal.close()
    assert numbers(tmp_path) == {"before": None, "after": 1}
