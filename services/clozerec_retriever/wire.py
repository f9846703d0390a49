"""Catalogue rows as messages."""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.struct_pb2 import Struct

from clozerec.v1 import retriever_pb2
from clozerec_core.catalogue import Catalogue
from clozerec_retriever.ranking import Ranking

METADATA_CACHE_BYTES = 32 * 1024 * 1024
"""Rendered metadata is kept up to about so much; a Struct is slow to build and the same rows come up again."""

_ENTRY_BYTES = 500
"""Of an entry beside its bytes: its key, and Python's own."""


class RowMessages:
    """Renders rows of one catalogue. Safe to use from several threads."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        row_bytes = 2 * int(catalogue.frame.estimated_size()) // max(1, len(catalogue)) + _ENTRY_BYTES
        self._metadata = lru_cache(METADATA_CACHE_BYTES // row_bytes)(self._serialised_metadata)

    def candidates(self, ranking: Ranking, fields: tuple[str, ...]) -> list[retriever_pb2.Candidate]:
        """One message a row, best first, with the named columns."""
        messages = []
        for row, score in zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True):
            message = retriever_pb2.Candidate(
                item_id=self._catalogue.item_ids[row],
                score=score,
                row=row,
                display_name=self._catalogue.display_names[row],
            )
            message.metadata.MergeFromString(self._metadata(row, fields))
            messages.append(message)
        return messages

    def stored_item(self, row: int, fields: tuple[str, ...]) -> retriever_pb2.StoredItem:
        """A known item with the named columns, without its content vector."""
        message = retriever_pb2.StoredItem(
            item_id=self._catalogue.item_ids[row], known=True, display_name=self._catalogue.display_names[row]
        )
        message.metadata.MergeFromString(self._metadata(row, fields))
        return message

    def _serialised_metadata(self, row: int, fields: tuple[str, ...]) -> bytes:
        """Bytes, not a Struct: they are a tenth of its size, and merge as fast as it copies."""
        struct = Struct()
        struct.update(self._catalogue.metadata(row, fields))
        return struct.SerializeToString()
