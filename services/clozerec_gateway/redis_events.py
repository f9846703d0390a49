"""Live events, and notes of catalogue changes, in Redis, for gateways that are many.

Every person has four keys: `clozerec:{<key>}:events`, a sorted set of events by time; `:ids`, the set of their ids;
`:arrivals`, how many came; `:forgotten`, when the person was last forgotten. Each change is one atomic script. <key> is
the SHA-256 of the user id: any text will do as an id, and a forgotten one names nobody. The keys of a person share a
slot, but this is a client of one server: it does not follow a cluster's redirections.

Long histories are kept in memory for a minute, and only asked whether they changed: megabytes on the way and tens of
milliseconds of parsing for each request would hold up everybody else's.

An acknowledged event is as durable as Redis is told to make it: `appendonly yes` survives the process's end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from itertools import groupby
from typing import Any

from cachetools import TTLCache
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from clozerec_core.errors import StorageFull, UsageError
from clozerec_core.telemetry import get_logger
from clozerec_gateway.events import STORE_FULL, Event, HistoryStoreGone, LiveHistory, user_key
from clozerec_gateway.notes import Note

# A member is its arrival, as 16 digits, and the event as JSON: equal times then sort by arrival.
_APPEND = """
local events, ids = KEYS[1], KEYS[2]
local max = tonumber(ARGV[1])
for i = 2, #ARGV, 3 do
  if redis.call('SADD', ids, ARGV[i]) == 1 then
    local arrival = redis.call('INCR', KEYS[3])
    redis.call('ZADD', events, ARGV[i + 1], string.format('%016d', arrival) .. ARGV[i + 2])
  end
end
local extra = redis.call('ZCARD', events) - max
if extra > 0 then
  for _, member in ipairs(redis.call('ZRANGE', events, 0, extra - 1)) do
    redis.call('SREM', ids, cjson.decode(string.sub(member, 17))[1])
  end
  redis.call('ZREMRANGEBYRANK', events, 0, extra - 1)
end
"""
_ARRIVAL_DIGITS = 16

LONG_HISTORY = 500
"""Events above which a history is kept, and parsed off the event loop; below, asking first would cost more."""

KEPT_EVENTS = 300_000
"""Of people with long histories; about 300 bytes each."""

KEPT_S = 60.0
"""Then it is read again, changed or not: a Redis that was restored from a copy may count to the same number anew."""

_NOTES = "clozerec:{catalogue}:notes"
_NOTED = "clozerec:{catalogue}:noted"
"""Items by the time at which they were first spoken of."""
_NOTES_VERSION = "clozerec:{catalogue}:version"
"""Counts writes of notes, so that a gateway knows when there is news."""
_NOTES_A_REPLY = 500
"""Of all notes in one reply the event loop would parse for a second and answer nobody."""

log = get_logger("histories")


class RedisEvents:
    """An `EventStore` and `NoteStore` behind a Redis URL, shared by any number of gateways."""

    def __init__(self, url: str, max_events: int, timeout_s: float) -> None:
        """Connect at the first call.

        Args:
            url: `redis://`, `rediss://` or `unix://`, as redis-py reads it.
            max_events: a person's newest events that are kept.
            timeout_s: seconds that Redis has for an answer, or to accept a connection.

        Raises:
            UsageError: it is no such URL.
        """
        self._max_events = max_events
        try:
            self._redis: Redis = Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 1),  # a connection that was idle too long; what is gone is gone
            )
        except ValueError as error:
            raise UsageError(f"CLOZEREC_REDIS_URL: {error}") from None
        self._kept: TTLCache[str, tuple[Sequence[bytes | None], LiveHistory]] = TTLCache(
            KEPT_EVENTS, KEPT_S, getsizeof=lambda kept: min(KEPT_EVENTS, len(kept[1].events))
        )
        self._append_script = self._redis.register_script(_APPEND)

    async def append(self, events: Sequence[Event]) -> None:
        """See `EventStore`. Each person's events go in together; of several people some may be in after a failure."""
        by_user = sorted(events, key=lambda event: event.user_id)  # stable: arrival keeps its order
        for user_id, of_user in groupby(by_user, key=lambda event: event.user_id):
            arguments: list[Any] = [self._max_events]
            for event in of_user:
                body = [event.event_id, event.item_id, event.event_type, event.recommendation_id]
                arguments += [event.event_id, event.time_us, json.dumps(body, separators=(",", ":"))]
            keys = [_key(user_id, part) for part in ("events", "ids", "arrivals")]
            await _translated(self._append_script(keys=keys, args=arguments))

    async def history(self, user_id: str) -> LiveHistory:
        """See `EventStore`."""
        version_keys = [_key(user_id, part) for part in ("arrivals", "forgotten")]
        kept = self._kept.get(user_id)
        if kept is not None and await _translated(self._redis.mget(version_keys)) == kept[0]:
            return kept[1]
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.zrange(_key(user_id, "events"), 0, -1, withscores=True)
        pipeline.mget(version_keys)
        members, version = await _translated(pipeline.execute())
        forgotten_us = None if version[1] is None else int(version[1])
        if len(members) <= LONG_HISTORY:
            self._kept.pop(user_id, None)
            return LiveHistory(_events(user_id, members), forgotten_us)
        history = LiveHistory(await asyncio.to_thread(_events, user_id, members), forgotten_us, is_kept=True)
        self._kept[user_id] = version, history
        return history

    def at_hand(self, user_id: str) -> LiveHistory | None:
        """See `EventStore`: other gateways write, too."""
        return None

    async def forget(self, user_id: str, now_us: int) -> int:
        """See `EventStore`."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.zcard(_key(user_id, "events"))
        pipeline.set(_key(user_id, "forgotten"), now_us)
        pipeline.delete(*(_key(user_id, part) for part in ("events", "ids", "arrivals")))
        erased, *_ = await _translated(pipeline.execute())
        self._kept.pop(user_id, None)
        return int(erased)

    async def write_notes(self, notes: Sequence[Note]) -> int:
        """See `NoteStore`."""
        pipeline = self._redis.pipeline(transaction=True)
        for place, note in enumerate(notes):
            body = [note.deleted, note.changed_us, note.display_name, note.metadata]
            pipeline.hset(_NOTES, note.item_id, json.dumps(body, separators=(",", ":")))
            # Notes of one call have one time or nearly so, and keep the order of the call all the same.
            pipeline.zadd(_NOTED, {note.item_id: note.changed_us + place}, nx=True)
        pipeline.incr(_NOTES_VERSION)
        *_, count = await _translated(pipeline.execute())
        return 1 + int(count)

    async def notes_since(self, version: int) -> tuple[int, Sequence[Note]]:
        """See `NoteStore`."""
        now = 1 + int(await _translated(self._redis.get(_NOTES_VERSION)) or 0)
        if version == now:
            return now, ()
        bodies, times = await _translated(self._scanned_notes())
        return now, await asyncio.to_thread(_notes, bodies, times)

    async def _scanned_notes(self) -> tuple[dict[bytes, bytes], dict[bytes, float]]:
        """Bodies and first times by item; of a note that changes meanwhile either, and the version tells of it."""
        bodies = dict([each async for each in self._redis.hscan_iter(_NOTES, count=_NOTES_A_REPLY)])
        return bodies, dict([each async for each in self._redis.zscan_iter(_NOTED, count=_NOTES_A_REPLY)])

    async def close(self) -> None:
        """See `EventStore`."""
        await self._redis.aclose()


def _key(user_id: str, part: str) -> str:
    return f"clozerec:{{{user_key(user_id)}}}:{part}"


def _notes(bodies: Mapping[bytes, bytes], times: Mapping[bytes, float]) -> list[Note]:
    notes = [Note(item_id.decode(), *json.loads(body)) for item_id, body in bodies.items()]
    # A gateway of an older release writes no first time.
    return sorted(notes, key=lambda note: (times.get(note.item_id.encode(), note.changed_us), note.item_id))


def _events(user_id: str, members: Sequence[tuple[bytes, float]]) -> list[Event]:
    # As one array: a fifth of the time of parsing each.
    bodies = json.loads(b"[" + b",".join([member[_ARRIVAL_DIGITS:] for member, _ in members]) + b"]")
    return [
        Event(user_id, item_id, int(time_us), event_type, event_id, recommendation_id)
        for (event_id, item_id, event_type, recommendation_id), (_, time_us) in zip(bodies, members, strict=True)
    ]


async def _translated(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except OutOfMemoryError as error:
        raise StorageFull(STORE_FULL) from error
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("histories_failed", error=str(error))
        raise HistoryStoreGone from error
