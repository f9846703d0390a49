"""Bytes of rows that were rendered before, the newest version of each alone. Knows no messages.

`lru_cache` with the version in its key would keep what was rendered of every older version, until enough others come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

Fields = tuple[str, ...]


class Rendered:
    """Keeps so many; what was rendered first goes first. Safe to use from several threads."""

    def __init__(self, render: Callable[[int, Fields], bytes], max_entries: int) -> None:
        """
        Args:
            render: a row with the named columns.
            max_entries: kept at once, 1 or more.
        """
        self._render = render
        self._max_entries = max_entries
        self._known: dict[tuple[int, Fields], tuple[int, bytes]] = {}
        self._adding = threading.Lock()

    def of(self, row: int, version: int, fields: Fields) -> bytes:
        """The row's bytes; rendered anew where its version is another than the last time."""
        key = row, fields
        known = self._known.get(key)
        if known is not None and known[0] == version:
            return known[1]
        made = self._render(row, fields)
        with self._adding:
            self._known[key] = version, made
            if len(self._known) > self._max_entries:
                del self._known[next(iter(self._known))]
        return made

    def __len__(self) -> int:
        return len(self._known)
