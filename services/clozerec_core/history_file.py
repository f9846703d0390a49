"""`histories.sqlite`: what every person in the training log did, one row a person, read without loading the rest.

The file is immutable: it is opened read-only and without locks, so any number of processes may share it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_SCHEMA = """
CREATE TABLE histories (
  user_id TEXT PRIMARY KEY,
  rows    BLOB NOT NULL,   -- little-endian uint32 catalogue rows, oldest first
  times   BLOB NOT NULL    -- little-endian int64 microseconds since the epoch, one for each row
) WITHOUT ROWID;
"""

Rows = np.ndarray[tuple[int], np.dtype[np.uint32]]
Times = np.ndarray[tuple[int], np.dtype[np.int64]]


def write_histories(path: Path, histories: Iterable[tuple[str, Rows, Times]]) -> None:
    """Write `(user_id, rows, times)` for every person; rows and times oldest first."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.executescript(_SCHEMA)
        connection.executemany(
            "INSERT INTO histories VALUES (?, ?, ?)",
            (
                (user_id, rows.astype("<u4").tobytes(), times.astype("<i8").tobytes())
                for user_id, rows, times in histories
            ),
        )
        connection.commit()
    finally:
        connection.close()


class HistoryFile:
    """Reads histories by user id; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def read(self, user_id: str) -> tuple[list[int], list[int]] | None:
        """The person's catalogue rows, oldest first, and their times in microseconds; None for an unknown person."""
        query = "SELECT rows, times FROM histories WHERE user_id = ?"
        found = self._connection().execute(query, (user_id,)).fetchone()
        if found is None:
            return None
        rows, times = found
        return np.frombuffer(rows, "<u4").tolist(), np.frombuffer(times, "<i8").tolist()

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection
