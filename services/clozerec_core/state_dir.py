"""SQLite files in a service's state directory: held by one process, durable, their faults in the domain's words.

What is committed over `open_durable` survives the process and the power: write-ahead log with full syncs.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from clozerec_core.errors import ClozerecError, StorageFull, UsageError
from clozerec_core.telemetry import get_logger

log = get_logger("state")


def hold(directory: Path, lock_file: str, if_taken: str) -> IO[bytes]:
    """Make the directory where it is missing, and hold it until the returned file is closed.

    Args:
        directory: of the state.
        lock_file: its name; left behind, for only the lock on it counts.
        if_taken: the message where another process has it.

    Raises:
        UsageError: it cannot be written, or another process has it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / lock_file).open("wb")
    except OSError as error:
        raise UsageError(
            f"cannot write to state directory {directory}: {error.strerror}; set CLOZEREC_STATE_DIR"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UsageError(if_taken) from None
    return file


def open_durable(path: Path) -> sqlite3.Connection:
    """A connection for whichever thread asks, one at a time."""
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def storage_faults(path: Path, if_full: str, otherwise: ClozerecError) -> Iterator[None]:
    """What SQLite raises within is logged and becomes an error of the domain.

    Args:
        path: of the file.
        if_full: the message where the disk is full.
        otherwise: what callers hear of any other fault.

    Raises:
        StorageFull: the disk is full.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        log.error("storage_failed", path=str(path), error=str(error))
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise StorageFull(if_full) from error
        raise otherwise from error
