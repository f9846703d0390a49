"""What a person did, as item ids, oldest first: read from the bundle, off the event loop."""

from __future__ import annotations

from clozerec_core.bundle import HISTORIES, Bundle
from clozerec_core.history_file import HistoryFile
from clozerec_core.workers import Workers


class Histories:
    """Bundle histories; live events will join them here."""

    def __init__(self, bundle: Bundle) -> None:
        self._file = HistoryFile(bundle.file(HISTORIES))
        self._item_ids = bundle.catalogue.item_ids
        self._worker = Workers("histories", num_threads=1)

    async def item_ids(self, user_id: str) -> list[str] | None:
        """The person's items, oldest first, repeats included; None for an unknown person."""
        rows = await self._worker.run(lambda: self._file.rows(user_id))
        return None if rows is None else [self._item_ids[row] for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._worker.close()
        self._file.close()
