"""Live events of people, and what every store of them promises.

A store keeps what callers record between trainings. What `append` returned survives the process; the same event twice
is one event; each person's newest events are kept and older ones make room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clozerec_core.errors import NotReady


@dataclass(frozen=True)
class Event:
    """One thing that a person did with an item."""

    user_id: str
    item_id: str
    time_us: int
    """Microseconds since the epoch."""
    event_type: str = ""
    event_id: str = ""
    """Names the event among those of its person."""
    recommendation_id: str = ""


@dataclass(frozen=True)
class LiveHistory:
    """What a store holds of a person."""

    events: Sequence[Event] = ()
    """By time, events of one time in the order of their arrival."""
    forgotten_us: int | None = None
    """When the person was last forgotten: what bundles know from before is not read. Microseconds since the epoch."""
    is_kept: bool = field(default=False, compare=False)
    """Whether `history` brings this very object again until something changes."""


STORE_FULL = "the store of live events is full; free some space and send the events again"


class HistoryStoreGone(NotReady):
    """The store does not answer; queries go on without it, writes cannot."""

    def __init__(self) -> None:
        super().__init__("the store of live events is not reachable; try again")


class EventStore(Protocol):
    """Where live events are kept. Every method may raise HistoryStoreGone."""

    async def append(self, events: Sequence[Event]) -> None:
        """Keep events, durably; those whose person and `event_id` are known already change nothing."""
        ...

    async def history(self, user_id: str) -> LiveHistory:
        """What is known of a person; nothing for an unknown one."""
        ...

    def at_hand(self, user_id: str) -> LiveHistory | None:
        """The same where it can be told at once, and as the same object until it changes; None: ask `history`."""
        ...

    async def forget(self, user_id: str, now_us: int) -> int:
        """Erase a person's events and remember when; returns how many there were."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


def user_key(user_id: str) -> str:
    """Names a person without saying who it is, for what must outlive their erasure."""
    return hashlib.sha256(user_id.encode()).hexdigest()
