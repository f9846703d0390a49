"""The journal: every change to the catalogue that callers made, durable before it is acknowledged.

One SQLite file, one row an item, holding what the callers last said of it: typed cells, *content* vector, the text
model that made it, and the text. Vectors of a bundle's own space are never stored, so the journal outlives bundles.
Deletions stay as rows, because the next bundle may know the item again. WAL with full syncs: what `commit` returned
survives the process and the power.

Not for several threads at once: `writer.py` owns the one writing thread.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from clozerec_core.catalogue import ColumnType, Schema
from clozerec_core.errors import BadJournal
from clozerec_core.state_dir import hold, open_durable, storage_faults
from clozerec_core.telemetry import get_logger
from clozerec_retriever.records import (
    FIELDS,
    Change,
    ItemRecord,
    Put,
    Row,
    finds_nothing,
    from_row,
    is_sound,
    left_by,
    to_row,
)
from clozerec_retriever.wal import frames_in

JOURNAL_FILE = "catalogue.sqlite"
LOCK_FILE = "catalogue.lock"

_TABLES = """
CREATE TABLE IF NOT EXISTS schemas (
  schema_id INTEGER PRIMARY KEY,
  columns   TEXT NOT NULL UNIQUE   -- JSON: column to type
);
CREATE TABLE IF NOT EXISTS items (
  ordinal       INTEGER PRIMARY KEY,   -- order of first appearance; breaks ties between day-zero items
  item_id       TEXT NOT NULL UNIQUE,
  deleted       INTEGER NOT NULL,
  cells         TEXT NOT NULL,         -- JSON: the columns that callers spoke of
  schema_id     INTEGER NOT NULL REFERENCES schemas,
  content       BLOB,                  -- little-endian float32; NULL: as the bundle has it; empty: no text
  text_model    TEXT NOT NULL,
  text          TEXT NOT NULL,
  changed_at_us INTEGER NOT NULL,      -- microseconds since the epoch
  checksum      INTEGER NOT NULL       -- CRC-32 of the row
);
CREATE TABLE IF NOT EXISTS followed (  -- one row, where the journal is a copy of a shared log
  log_id   TEXT NOT NULL,
  position INTEGER NOT NULL            -- everything up to it is in `items`
);
"""
_FIELDS = ", ".join(FIELDS)
_WRITE = (
    f"INSERT INTO items ({_FIELDS}) VALUES ({', '.join('?' * len(FIELDS))}) ON CONFLICT (ordinal) DO UPDATE SET "  # noqa: S608
    + ", ".join(f"{name} = excluded.{name}" for name in FIELDS[2:])
)
MAX_IDS_PER_QUERY = 30_000
"""SQLite takes 32,766 parameters in one statement."""

log = get_logger("journal")


class Journal:
    """An open journal. Holds a lock on its directory, for two processes would not see each other's changes."""

    def __init__(self, directory: Path) -> None:
        """Open or create `directory/catalogue.sqlite`.

        Raises:
            UsageError: the directory cannot be written, or another process has it.
            BadJournal: the file is damaged.
        """
        self.path = directory / JOURNAL_FILE
        self._lock = hold(
            directory,
            LOCK_FILE,
            f"another retriever uses state directory {directory}; give each a directory of its own",
        )
        try:
            num_frames = frames_in(self.path.with_name(JOURNAL_FILE + "-wal"))
            with self._faults():
                self._connection = open_durable(self.path)
                self._say_what_was_torn(num_frames)
                self._connection.executescript(_TABLES)
                self._schemas = self._read_schemas()
                (last,) = self._connection.execute("SELECT coalesce(max(ordinal), -1) FROM items").fetchone()
                followed = self._connection.execute("SELECT log_id, position FROM followed").fetchone()
        except BaseException:
            self._lock.close()
            raise
        self._next_ordinal: int = last + 1
        self.followed: tuple[str, int] | None = followed
        """The shared log that the journal is a copy of, and up to where; None: of no log."""

    def close(self) -> None:
        """Fold the log into the file and let another process have the directory."""
        self._connection.close()
        self._lock.close()

    def records(self) -> Iterator[ItemRecord]:
        """Every item that was ever changed, in order of first appearance; a damaged row is left out and logged.

        All of one moment, and safe beside the writing thread.
        """
        with self._faults(), self._reading() as connection:
            for row in connection.execute(f"SELECT {_FIELDS} FROM items ORDER BY ordinal"):  # noqa: S608
                if is_sound(row):
                    yield from_row(row, self._schemas)
                else:
                    log.error("journal_row_damaged", path=str(self.path), item_id=row[1])

    def commit(
        self, changes: Sequence[Change], schema: Schema, is_in_bundle: Callable[[str], bool]
    ) -> list[ItemRecord | None]:
        """Write changes in one transaction, synced to disk; what each left, None where a masked item is unknown.

        Args:
            changes: in the order in which they happen; an item may appear more than once.
            schema: the types of the changes' cells.
            is_in_bundle: whether an item that the journal has never seen is known all the same.

        Raises:
            StorageFull: the disk is full; nothing was written.
            BadJournal: the disk failed; nothing was written.
        """
        now_us = int(datetime.now(UTC).timestamp() * 1e6)
        with self._transaction():
            schema_id = self._schema_id(schema)
            known = {row[1]: row for row in _select(self._connection, sorted({change.item_id for change in changes}))}
            results: list[ItemRecord | None] = []
            after: dict[str, ItemRecord] = {}
            for change in changes:
                before = after.get(change.item_id) or known.get(change.item_id)
                record = self._after(change, before, schema, now_us, is_in_bundle)
                results.append(record)
                if record is not None:
                    after[change.item_id] = record
            self._connection.executemany(
                _WRITE,
                [
                    to_row(record, schema_id if record.kinds is schema else self._schema_id(record.kinds))
                    for record in after.values()
                ],
            )
            self._connection.execute("DELETE FROM followed")
        self.followed = None
        return results

    def keep(self, records: Iterable[ItemRecord], log_id: str, position: int, anew: bool = False) -> None:
        """Copy what a shared log has, in one transaction.

        Args:
            records: with the log's ordinals.
            log_id: names the log.
            position: in it, up to which the journal is a copy then.
            anew: forget everything else.

        Raises:
            StorageFull, BadJournal: nothing was written.
        """
        with self._transaction():
            if anew:
                self._connection.execute("DELETE FROM items")
            self._connection.executemany(_WRITE, (to_row(each, self._schema_id(each.kinds)) for each in records))
            self._connection.execute("DELETE FROM followed")
            self._connection.execute("INSERT INTO followed VALUES (?, ?)", (log_id, position))
        self.followed = log_id, position

    def get(self, item_ids: Sequence[str]) -> dict[str, ItemRecord]:
        """The records of those of the ids that the journal has. Safe beside the writing thread.

        Raises:
            BadJournal: the disk failed.
        """
        with self._faults(), self._reading() as connection:
            return {row[1]: from_row(row, self._schemas) for row in _select(connection, list(item_ids))}

    def snapshot(self, directory: Path) -> Path:
        """Write a consistent copy into `directory`, synced, while changes go on. Safe beside the writing thread.

        Raises:
            StorageFull: the disk is full.
        """
        directory.mkdir(exist_ok=True)
        name = f"catalogue-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.sqlite"
        staging = directory / f".{name}"
        try:
            with self._faults(), self._reading() as connection:
                connection.execute("VACUUM INTO ?", (str(staging),))
            with staging.open("rb") as file:
                os.fsync(file.fileno())
            staging.rename(directory / name)
        finally:
            staging.unlink(missing_ok=True)
        return directory / name

    def _after(
        self,
        change: Change,
        before: ItemRecord | Row | None,
        schema: Schema,
        now_us: int,
        is_in_bundle: Callable[[str], bool],
    ) -> ItemRecord | None:
        """What a change leaves of what was known before: a record of this transaction, or a row."""
        ordinal = before[0] if isinstance(before, tuple) else before.ordinal if before else None
        # All that a whole change keeps is the place: to read the rest of a row would cost as much as to write it.
        read: ItemRecord | None = None
        if isinstance(change, Put) and change.masked:
            read = from_row(before, self._schemas) if isinstance(before, tuple) else before
        if finds_nothing(change, read, is_in_bundle):
            return None
        return left_by(change, read, self._take_ordinal() if ordinal is None else ordinal, schema, now_us)

    def _take_ordinal(self) -> int:
        self._next_ordinal += 1
        return self._next_ordinal - 1

    def _schema_id(self, schema: Schema) -> int:
        for schema_id, known in self._schemas.items():
            if known == schema:
                return schema_id
        columns = json.dumps({name: kind.value for name, kind in schema.items()}, ensure_ascii=False)
        self._connection.execute("INSERT OR IGNORE INTO schemas (columns) VALUES (?)", (columns,))
        self._schemas = self._read_schemas()
        return self._schema_id(schema)

    def _read_schemas(self) -> dict[int, dict[str, ColumnType]]:
        return {
            schema_id: {name: ColumnType(kind) for name, kind in json.loads(columns).items()}
            for schema_id, columns in self._connection.execute("SELECT schema_id, columns FROM schemas")
        }

    def _say_what_was_torn(self, num_frames: int) -> None:
        """SQLite replays its log to the last whole transaction and is silent about the rest."""
        _, num_whole, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if num_frames > num_whole:
            log.warning("journal_tail_torn", path=str(self.path), whole=num_whole, left_out=num_frames - num_whole)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        next_ordinal = self._next_ordinal
        with self._faults():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._next_ordinal = next_ordinal
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                self._schemas = self._read_schemas()
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def _faults(self) -> AbstractContextManager[None]:
        return storage_faults(
            self.path,
            "the disk of the catalogue's journal is full; free some space and send it again",
            BadJournal(
                f"{JOURNAL_FILE} in the retriever's state directory cannot be used; put a snapshot in its place, or "
                "move it away to start without live changes"
            ),
        )


def _select(connection: sqlite3.Connection, item_ids: list[str]) -> Iterator[Row]:
    for start in range(0, len(item_ids), MAX_IDS_PER_QUERY):
        some = item_ids[start : start + MAX_IDS_PER_QUERY]
        marks = ", ".join("?" * len(some))
        yield from connection.execute(f"SELECT {_FIELDS} FROM items WHERE item_id IN ({marks})", some)  # noqa: S608
