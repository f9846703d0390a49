"""Live events and notes of catalogue changes in one SQLite file: the default, for a gateway that is alone.

Write-ahead log with full syncs: what `append` returned survives the process and the power. Reads have a connection and
a thread of their own, so none waits for a sync, and people who were read lately are kept in memory; a lock on the
directory sees to it that nobody else writes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from cachetools import LRUCache

from clozerec_core import metrics
from clozerec_core.errors import UsageError
from clozerec_core.state_dir import hold, open_durable, storage_faults
from clozerec_core.workers import Workers
from clozerec_gateway.events import STORE_FULL, Event, HistoryStoreGone, LiveHistory, user_key
from clozerec_gateway.notes import Note

T = TypeVar("T")

_HITS, _MISSES = (metrics.GATEWAY_HISTORY_READS.labels("live", cache) for cache in ("hit", "miss"))

HISTORIES_FILE = "histories.sqlite"
LOCK_FILE = "histories.lock"

CACHED_EVENTS = 1_000_000
"""Of people who were read lately, a person counting as a hundred; about 300 bytes each."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  arrival           INTEGER PRIMARY KEY,   -- orders events of one time
  user_id           TEXT NOT NULL,
  item_id           TEXT NOT NULL,
  time_us           INTEGER NOT NULL,      -- microseconds since the epoch
  event_type        TEXT NOT NULL,
  event_id          TEXT NOT NULL,
  recommendation_id TEXT NOT NULL,
  UNIQUE (user_id, event_id)
);
CREATE INDEX IF NOT EXISTS events_by_time ON events (user_id, time_us, arrival);
CREATE TABLE IF NOT EXISTS forgotten (
  user_key TEXT PRIMARY KEY,               -- SHA-256 of the user id
  time_us  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
  item_id      TEXT PRIMARY KEY,
  deleted      INTEGER NOT NULL,
  changed_us   INTEGER NOT NULL,           -- microseconds since the epoch
  display_name TEXT NOT NULL,
  metadata     TEXT NOT NULL               -- JSON
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS noted (
  place   INTEGER PRIMARY KEY,             -- when the item was first spoken of
  item_id TEXT NOT NULL UNIQUE
);
INSERT OR IGNORE INTO noted (item_id) SELECT item_id FROM notes ORDER BY changed_us, item_id;  -- of an older release
"""

_APPEND = """
INSERT OR IGNORE INTO events (user_id, item_id, time_us, event_type, event_id, recommendation_id)
VALUES (?, ?, ?, ?, ?, ?)
"""
_TRIM = """
DELETE FROM events WHERE user_id = ?1 AND (time_us, arrival) <= (
  SELECT time_us, arrival FROM events WHERE user_id = ?1 ORDER BY time_us DESC, arrival DESC LIMIT 1 OFFSET ?2
)
"""
_READ = """
SELECT user_id, item_id, time_us, event_type, event_id, recommendation_id
FROM events WHERE user_id = ? ORDER BY time_us, arrival
"""


class SqliteEvents:
    """An `EventStore` and `NoteStore` in `directory/histories.sqlite`."""

    def __init__(self, directory: Path, max_events: int) -> None:
        """Open or create the file.

        Args:
            directory: made if it is missing.
            max_events: a person's newest events that are kept.

        Raises:
            UsageError: the directory cannot be written, the file is damaged, or another gateway has it.
        """
        self._max_events = max_events
        self._lock = hold(
            directory,
            LOCK_FILE,
            f"another gateway uses state directory {directory}; give it one of its own, or CLOZEREC_REDIS_URL to all",
        )
        self._path = path = directory / HISTORIES_FILE
        try:
            self._writing = _open(path)
            self._writing.executescript(_SCHEMA)
            self._reading = _open(path)
            metrics.GATEWAY_LIVE_EVENTS.set(self._reading.execute("SELECT count(*) FROM events").fetchone()[0])
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise UsageError(f"{path} cannot be used ({error}); put a backup in its place, or move it away") from error
        self._writer = Workers("live histories' writer", num_threads=1)
        self._reader = Workers("live histories", num_threads=1)
        self._cache: LRUCache[str, LiveHistory] = LRUCache(
            CACHED_EVENTS, lambda known: min(CACHED_EVENTS, 100 + len(known.events))
        )
        self._num_writes = 0
        self._notes_version = 1

    async def append(self, events: Sequence[Event]) -> None:
        """See `EventStore`."""
        await self._write(lambda: self._append(events), {event.user_id for event in events})

    async def forget(self, user_id: str, now_us: int) -> int:
        """See `EventStore`."""
        return await self._write(lambda: self._forget(user_id, now_us), {user_id})

    async def history(self, user_id: str) -> LiveHistory:
        """See `EventStore`."""
        _MISSES.inc()
        num_writes = self._num_writes
        history = await self._reader.run(lambda: self._translated(lambda: self._read(user_id)))
        if num_writes == self._num_writes:  # else a write may have come between
            self._cache[user_id] = history
        return history

    def at_hand(self, user_id: str) -> LiveHistory | None:
        """See `EventStore`."""
        known = self._cache.get(user_id)
        if known is not None:
            _HITS.inc()
        return known

    async def write_notes(self, notes: Sequence[Note]) -> int:
        """See `NoteStore`."""
        return await self._write(lambda: self._write_notes(notes), set())

    async def notes_since(self, version: int) -> tuple[int, Sequence[Note]]:
        """See `NoteStore`: nobody else writes, so the version is a count of this process's writes."""
        now = self._notes_version
        if version == now:
            return now, ()
        return now, await self._reader.run(lambda: self._translated(self._read_notes))

    async def close(self) -> None:
        """See `EventStore`."""
        self._writer.close()
        self._reader.close()
        self._reading.close()
        self._writing.close()
        self._lock.close()

    async def _write(self, work: Callable[[], T], user_ids: set[str]) -> T:
        loop = asyncio.get_running_loop()

        def work_and_tell() -> T:
            # Told by the thread, when it is done, whatever became of it: a caller that is gone says nothing of what the
            # thread still commits. It comes before the result, so who waits for that finds the cache in order.
            try:
                return self._translated(work)
            finally:
                loop.call_soon_threadsafe(self._written, user_ids)

        return await self._writer.run(work_and_tell)

    def _written(self, user_ids: set[str]) -> None:
        self._num_writes += 1
        for user_id in user_ids:
            self._cache.pop(user_id, None)

    def _translated(self, work: Callable[[], T]) -> T:
        with storage_faults(self._path, STORE_FULL, HistoryStoreGone()):
            return work()

    def _append(self, events: Sequence[Event]) -> None:
        with self._writing:
            added = self._writing.executemany(
                _APPEND,
                [
                    (each.user_id, each.item_id, each.time_us, each.event_type, each.event_id, each.recommendation_id)
                    for each in events
                ],
            ).rowcount
            for user_id in {event.user_id for event in events}:
                added -= self._writing.execute(_TRIM, (user_id, self._max_events)).rowcount
        metrics.GATEWAY_LIVE_EVENTS.inc(added)

    def _forget(self, user_id: str, now_us: int) -> int:
        with self._writing:
            erased = self._writing.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount
            self._writing.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (user_key(user_id), now_us))
        metrics.GATEWAY_LIVE_EVENTS.dec(erased)
        # The log still holds the events; a reader under way only puts this off to the next checkpoint.
        self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return erased

    def _write_notes(self, notes: Sequence[Note]) -> int:
        with self._writing:
            self._writing.executemany(
                "INSERT OR IGNORE INTO noted (item_id) VALUES (?)", [(note.item_id,) for note in notes]
            )
            self._writing.executemany(
                "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?, ?)",
                [
                    (note.item_id, int(note.deleted), note.changed_us, note.display_name, note.metadata)
                    for note in notes
                ],
            )
        self._notes_version += 1  # on the writer's thread: also of a caller that is gone
        return self._notes_version

    def _read_notes(self) -> list[Note]:
        rows = self._reading.execute(
            "SELECT item_id, deleted, changed_us, display_name, metadata FROM notes JOIN noted USING (item_id) "
            "ORDER BY place"
        )
        return [Note(item_id, bool(deleted), *rest) for item_id, deleted, *rest in rows]

    def _read(self, user_id: str) -> LiveHistory:
        events = [Event(*row) for row in self._reading.execute(_READ, (user_id,))]
        forgotten = self._reading.execute(
            "SELECT time_us FROM forgotten WHERE user_key = ?", (user_key(user_id),)
        ).fetchone()
        return LiveHistory(events, None if forgotten is None else forgotten[0])


def _open(path: Path) -> sqlite3.Connection:
    connection = open_durable(path)
    connection.execute("PRAGMA secure_delete = ON")  # who is forgotten leaves no bytes behind
    return connection
