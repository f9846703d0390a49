"""The log of catalogue changes that many retrievers share, in Redis.

What is recorded of an item lies in one hash; a stream says in which order items changed, and is cut to its newest
entries, for who has missed more reads the hash whole. Each write is one script, so the order of the stream is the order
of the changes, and what is read with a position is what was true at it. An acknowledged change is as durable as Redis
is told to make it (docs/state.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any
from uuid import uuid4

import numpy as np
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.retry import Retry

from clozerec_core.catalogue import ColumnType, Schema
from clozerec_core.errors import SharedLogGone, StorageFull, UsageError
from clozerec_core.metadata import cells_from_text, cells_to_text
from clozerec_retriever.records import Change, ItemRecord, Put, finds_nothing, left_by

_ITEMS, _CHANGES, _LAST, _LOG_ID = KEYS = tuple(
    f"clozerec:{{catalogue}}:{part}" for part in ("items", "changes", "last-change", "log-id")
)
"""A hash of stamped records by item id, the stream, the number of its last entry, and the name of this log."""

MAX_ENTRIES = 100_000
"""Of the stream. An entry is the ids of one batch."""

TOGETHER = 2_000
"""Items read from the log at a time, 2 kB each where texts have 384 dims."""

TIMEOUT_S = 2.0
"""For an answer, or to accept a connection; to write the 6,000 changes that may wait together takes one."""

WAIT_MS = 500
"""For news. After it the log is asked whether it is still the same."""

# A stamped record is its ordinal, the number of the entry that wrote it, and the record. ARGV: entries to keep; then
# for each item its id, the number that it must have ('' any, 0 none), and its record. Writes all or nothing.
_APPEND = """
local items, changes, last = KEYS[1], KEYS[2], KEYS[3]
for i = 2, #ARGV, 3 do
  if ARGV[i + 1] ~= '' then
    local known = redis.call('HGET', items, ARGV[i])
    if (known and string.match(known, '^%d+ (%d+)') or '0') ~= ARGV[i + 1] then return false end
  end
end
local number = redis.call('INCR', last)
local ids = {}
for i = 2, #ARGV, 3 do
  local known = redis.call('HGET', items, ARGV[i])
  local ordinal = known and string.match(known, '^%d+') or redis.call('HLEN', items)
  redis.call('HSET', items, ARGV[i], ordinal .. ' ' .. number .. ' ' .. ARGV[i + 2])
  ids[#ids + 1] = ARGV[i]
end
redis.call('XADD', changes, 'MAXLEN', '~', ARGV[1], number .. '-0', 'ids', cmsgpack.pack(ids))
return number
"""

# ARGV: the log's name, the position of the reader, and how many items to read. The position after them, and the latest
# records of what changed up to it; nothing where the log is another one, or begins after the position, or ends before.
_SINCE = """
local items, changes, last = KEYS[1], KEYS[2], tonumber(redis.call('GET', KEYS[3]) or 0)
local position = tonumber(ARGV[2])
if redis.call('GET', KEYS[4]) ~= ARGV[1] or position > last then return false end
if position == last then return {position, {}} end
local entries = redis.call('XRANGE', changes, (position + 1) .. '-0', '+', 'COUNT', 100)
if #entries == 0 or entries[1][1] ~= (position + 1) .. '-0' then return false end
local seen, records = {}, {}
for _, entry in ipairs(entries) do
  if #records >= 2 * ARGV[3] then break end
  for _, id in ipairs(cmsgpack.unpack(entry[2][2])) do
    if not seen[id] then
      seen[id] = true
      records[#records + 1] = id
      records[#records + 1] = redis.call('HGET', items, id)
    end
  end
  position = position + 1
end
return {position, records}
"""


class SharedLog:
    """A connection to the log. Blocking; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """Connect at the first call.

        Args:
            url: `redis://`, `rediss://` or `unix://`, as redis-py reads it.

        Raises:
            UsageError: it is no such URL.
        """
        try:
            self._redis: Redis = Redis.from_url(
                url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                # A connection that was idle too long; the same change twice is harmless. What hangs is not asked again.
                retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            )
        except ValueError as error:
            raise UsageError(f"CLOZEREC_REDIS_URL: {error}") from None
        self._append_script = self._redis.register_script(_APPEND)
        self._since_script = self._redis.register_script(_SINCE)

    def append(
        self, changes: Sequence[Change], schema: Schema, is_in_bundle: Callable[[str], bool]
    ) -> list[ItemRecord | None]:
        """Write changes as one entry; what each left, None where a masked item is unknown. Ordinals are not filled in.

        Args:
            changes: in the order in which they happen; an item may appear more than once.
            schema: the types of the changes' cells.
            is_in_bundle: whether an item that the log has never seen is known all the same.

        Raises:
            SharedLogGone: the log does not answer; the changes may be in it.
            StorageFull: Redis is full; nothing was written.
        """
        now_us = int(datetime.now(UTC).timestamp() * 1e6)
        masked = list({each.item_id: None for each in changes if isinstance(each, Put) and each.masked})
        while True:
            known = self._read(masked)
            records = {item_id: record for item_id, (_, record) in known.items()}
            results: list[ItemRecord | None] = []
            after: dict[str, ItemRecord] = {}
            for change in changes:
                before = records.get(change.item_id)
                if finds_nothing(change, before, is_in_bundle):
                    results.append(None)
                    continue
                record = left_by(change, before, 0, schema, now_us)
                results.append(record)
                records[change.item_id] = after[change.item_id] = record
            # A masked change rests on what was read: where another retriever came between, it is read again.
            if not after or self._write(after.values(), _numbers(known, masked)):
                return results

    def add_newer(self, records: Iterable[ItemRecord]) -> None:
        """Write those records that the log lacks, or has of an earlier time.

        Raises:
            SharedLogGone, StorageFull: some may be written.
        """
        source = iter(records)
        while some := list(islice(source, TOGETHER)):
            while True:
                known = self._read([record.item_id for record in some])
                numbers = _numbers(known, [record.item_id for record in some])
                newer = [
                    record
                    for record in some
                    if record.item_id not in known or known[record.item_id][1].changed_at_us < record.changed_at_us
                ]
                if not newer or self._write(newer, numbers):
                    break

    def since(self, log_id: str, position: int) -> tuple[int, list[ItemRecord]] | None:
        """Another position, and the latest records of what changed up to it; None where there is no way from here.

        Args:
            log_id: the log that the position is in.
            position: of who asks; the same one comes back where nothing changed.

        Raises:
            SharedLogGone: the log does not answer.
        """
        with _faults():
            found: Any = self._since_script(keys=KEYS, args=[log_id, position, TOGETHER])
        if found is None:
            return None
        reached, flat = found
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return int(reached), [_record(item_id, stamped)[1] for item_id, stamped in pairs]

    def end(self) -> tuple[str, int]:
        """The log's name and its last position; one that has no name yet is given one.

        Raises:
            SharedLogGone: the log does not answer.
        """
        with _faults():
            self._redis.set(_LOG_ID, uuid4().hex, nx=True)
            log_id: Any = self._redis.get(_LOG_ID)
            last: Any = self._redis.get(_LAST)
        return log_id.decode(), int(last or 0)

    def everything(self) -> Iterator[ItemRecord]:
        """The record of every item, as new as the end that was asked for before, or newer; some may come twice.

        Raises:
            SharedLogGone: the log does not answer.
        """
        with _faults():
            for item_id, stamped in self._redis.hscan_iter(_ITEMS, count=TOGETHER):
                yield _record(item_id, stamped)[1]

    def wait(self, position: int) -> None:
        """Return when there is something after a position, or after `WAIT_MS`.

        Raises:
            SharedLogGone: the log does not answer.
        """
        with _faults():
            self._redis.xread({_CHANGES: f"{position}-0"}, count=1, block=WAIT_MS)

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()

    def _read(self, item_ids: Sequence[str]) -> dict[str, tuple[int, ItemRecord]]:
        """The records of those that have one, with the number of the entry that wrote it."""
        with _faults():
            found: Any = self._redis.hmget(_ITEMS, list(item_ids)) if item_ids else []
        pairs = zip(item_ids, found, strict=True)
        return {item_id: _record(item_id.encode(), stamped) for item_id, stamped in pairs if stamped is not None}

    def _write(self, records: Iterable[ItemRecord], numbers: Mapping[str, int]) -> bool:
        """Whether the records could be written: items that are in `numbers` must have that number."""
        arguments: list[Any] = [MAX_ENTRIES]
        for record in records:
            arguments += [record.item_id, numbers.get(record.item_id, ""), _bytes(record)]
        with _faults():
            return self._append_script(keys=KEYS[:3], args=arguments) is not None


def _numbers(known: Mapping[str, tuple[int, ItemRecord]], item_ids: Iterable[str]) -> dict[str, int]:
    """What each item must still have when it is written."""
    return {item_id: known[item_id][0] if item_id in known else 0 for item_id in item_ids}


def _bytes(record: ItemRecord) -> bytes:
    """A line of JSON, and the content vector."""
    kinds = json.dumps({name: kind.value for name, kind in record.kinds.items()}, separators=(",", ":"))
    has_content = record.content is not None
    head = [
        record.deleted, cells_to_text(record.cells), kinds, record.text_model, record.text, record.changed_at_us,
        has_content,
    ]  # fmt: skip
    content = b"" if record.content is None else record.content.astype("<f4", copy=False).tobytes()
    return json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" + content


def _record(item_id: bytes, stamped: bytes) -> tuple[int, ItemRecord]:
    """With the number of the entry that wrote it."""
    head, content = stamped.split(b"\n", 1)
    ordinal, number, document = head.split(b" ", 2)
    deleted, cells, kinds, text_model, text, changed_at_us, has_content = json.loads(document)
    return int(number), ItemRecord(
        ordinal=int(ordinal),
        item_id=item_id.decode(),
        deleted=deleted,
        cells=cells_from_text(cells),
        kinds=_kinds(kinds),
        content=np.frombuffer(content, "<f4") if has_content else None,
        text_model=text_model,
        text=text,
        changed_at_us=changed_at_us,
    )


@lru_cache(64)
def _kinds(text: str) -> Schema:
    return {name: ColumnType(kind) for name, kind in json.loads(text).items()}


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except OutOfMemoryError as error:
        raise StorageFull("the shared log of catalogue changes is full; give Redis more memory") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise SharedLogGone from error
