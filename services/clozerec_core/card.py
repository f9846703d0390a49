"""What callers of the public API see of an item, rendered once and passed on as bytes.

The retriever keeps rendered cards, the gateway puts score and source beside them: an item's metadata is not taken apart
and built anew at each step of its way.
"""

from __future__ import annotations

from collections.abc import Mapping

from clozerec.v1 import recommender_pb2
from clozerec_core.catalogue import Json


def render_card(item_id: str, display_name: str, metadata: Mapping[str, Json]) -> bytes:
    """A serialised `RecommendedItem` without score, source and reasons."""
    card = recommender_pb2.RecommendedItem(item_id=item_id, display_name=display_name)
    card.metadata.update(metadata)
    return card.SerializeToString()
