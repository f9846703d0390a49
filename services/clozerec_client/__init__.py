"""A small typed client of ClozeRec: `Client` for threads, `AsyncClient` for asyncio.

    with Client("127.0.0.1:50050") as clozerec:
        answer = clozerec.recommend("sequential", session_items=["item_89", "item_300"], top_k=10)

Every call has a deadline, and is sent again where it ends with UNAVAILABLE; events get their ids here, so that this
does no harm.
"""

from clozerec_client.client import AsyncClient, Client
from clozerec_client.messages import (
    Event,
    Item,
    NewItem,
    Outcome,
    QueryType,
    Reason,
    Recommendation,
    Recommended,
    ServiceInfo,
)
from clozerec_client.transport import ClozerecRefused

__all__ = [
    "AsyncClient",
    "Client",
    "ClozerecRefused",
    "Event",
    "Item",
    "NewItem",
    "Outcome",
    "QueryType",
    "Reason",
    "Recommendation",
    "Recommended",
    "ServiceInfo",
]
