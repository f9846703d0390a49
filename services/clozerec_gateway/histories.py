"""What a person did, as item ids, oldest first: read from the bundle, off the event loop."""

from __future__ import annotations

import asyncio

from clozerec_core.bundle import HISTORIES, Bundle
from clozerec_core.history_file import HistoryFile


class Histories:
    """Bundle histories; live events will join them here."""

    def __init__(self, bundle: Bundle) -> None:
        self._file = HistoryFile(bundle.file(HISTORIES))
        self._item_ids = bundle.catalogue.item_ids

    async def item_ids(self, user_id: str) -> list[str] | None:
        """The person's items, oldest first, repeats included; None for an unknown person."""
        rows = await asyncio.to_thread(self._file.rows, user_id)
        return None if rows is None else [self._item_ids[row] for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
