"""What callers tell of people: events to keep, and people to forget."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clozerec_core.errors import BadRequest, Violation
from clozerec_core.limits import MAX_EVENTS_PER_CALL, MAX_ID_BYTES
from clozerec_gateway.events import Event, EventStore
from clozerec_gateway.histories import US_PER_S, Histories
from clozerec_gateway.query import id_violations

EARLIEST_US = -62_135_596_800 * US_PER_S
LATEST_US = 253_402_300_800 * US_PER_S - 1
"""Years 1 to 9999, which RFC 3339 can write."""


@dataclass(frozen=True)
class Farewell:
    """What became of a forgotten person."""

    erased_events: int
    trained_bundle_ids: Sequence[str]
    """Bundles whose weights and popularity still reflect the person."""


class Recorder:
    """Writes to the store of live events."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def record(self, events: Sequence[Event]) -> list[BadRequest | None]:
        """Keep the valid ones of the events; for each, in their order, why it was refused, or None.

        Raises:
            BadRequest: no event, or too many.
            HistoryStoreGone, StorageFull: none is acknowledged; the same call again is harmless.
        """
        if not 1 <= len(events) <= MAX_EVENTS_PER_CALL:
            raise BadRequest.of("interactions", f"expected 1 to {MAX_EVENTS_PER_CALL:,} events, not {len(events):,}")
        refusals = [_refusal(event, f"interactions[{i}]") for i, event in enumerate(events)]
        valid = [event for event, refusal in zip(events, refusals, strict=True) if refusal is None]
        if valid:
            await self._store.append(valid)
        return refusals

    async def forget(self, user_id: str, histories: Sequence[tuple[str, Histories]]) -> Farewell:
        """Erase a person's live events and stop reading what bundles know of them from before.

        Args:
            user_id: the person.
            histories: those of each loaded bundle, with its id.

        Raises:
            BadRequest: no such id can be.
            HistoryStoreGone: nothing was forgotten.
        """
        faults = list(id_violations("user_id", user_id, is_required=True))
        if faults:
            raise BadRequest(faults)
        erased = await self._store.forget(user_id, now_us())
        trained = [bundle_id for bundle_id, history in histories if await history.is_in_bundle(user_id)]
        return Farewell(erased, trained)


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000


def _refusal(event: Event, field: str) -> BadRequest | None:
    faults = list(_violations(event, field))
    return BadRequest(faults) if faults else None


def _violations(event: Event, field: str) -> Iterator[Violation]:
    yield from id_violations(f"{field}.user_id", event.user_id, is_required=True)
    yield from id_violations(f"{field}.item_id", event.item_id, is_required=True)
    yield from id_violations(f"{field}.event_id", event.event_id)
    for name, value in (("event_type", event.event_type), ("recommendation_id", event.recommendation_id)):
        if len(value.encode()) > MAX_ID_BYTES:
            yield Violation(f"{field}.{name}", f"{len(value.encode())} bytes; at most {MAX_ID_BYTES} are allowed")
    if not EARLIEST_US <= event.time_us <= LATEST_US:
        yield Violation(f"{field}.time", "expected a time in the years 1 to 9999")
