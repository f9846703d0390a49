"""What callers of the public API see of an item, rendered once and passed on as bytes.

The retriever keeps rendered cards, the gateway puts score and source beside them: an item's metadata is not taken apart
and built anew at each step of its way.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from clozerec.v1 import recommender_pb2
from clozerec_core.catalogue import Json


def render_card(item_id: str, display_name: str, metadata: Mapping[str, Json]) -> bytes:
    """A serialised `RecommendedItem` without score, source and reasons."""
    card = recommender_pb2.RecommendedItem(item_id=item_id, display_name=display_name)
    card.metadata.update(metadata)
    return card.SerializeToString()


def scored_item(card: bytes, score: float, source: Any) -> bytes:
    """One of the `items` of a serialised `RecommendResponse`: a card with its score and source."""
    size = len(card) + _SCORE_BYTES + len(source_field := _source_field(source))
    return b"".join((_ITEMS_TAG, _varint(size), card, _SCORE_TAG, _FLOAT.pack(score), source_field))


_FLOAT = struct.Struct("<f")
_SCORE_TAG = recommender_pb2.RecommendedItem(score=1).SerializeToString()[: -_FLOAT.size]
_SCORE_BYTES = len(_SCORE_TAG) + _FLOAT.size
_ITEMS_TAG = recommender_pb2.RecommendResponse(items=[recommender_pb2.RecommendedItem()]).SerializeToString()[:-1]


@lru_cache
def _source_field(source: Any) -> bytes:
    return recommender_pb2.RecommendedItem(source=source).SerializeToString()


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have their high bit set."""
    low = bytearray()
    while number > 127:
        low.append(number & 127 | 128)
        number >>= 7
    low.append(number)
    return bytes(low)
