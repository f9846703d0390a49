"""What every store of live events promises, and what each kind adds to it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from redis_server import RedisServer, redis_server

from clozerec_core.errors import StorageFull, UsageError
from clozerec_gateway.events import Event, EventStore, HistoryStoreGone, LiveHistory
from clozerec_gateway.redis_events import RedisEvents
from clozerec_gateway.sqlite_events import HISTORIES_FILE, SqliteEvents
from unit.gateway.conftest import MAX_EVENTS, Open


@pytest.fixture
async def store(open_store: Open) -> AsyncIterator[EventStore]:
    opened = open_store()
    yield opened
    await opened.close()


def event(item_id: str, time_us: int, event_id: str, user_id: str = "u", event_type: str = "") -> Event:
    return Event(user_id, item_id, time_us, event_type, event_id, recommendation_id="r")


async def items(store: EventStore, user_id: str = "u") -> list[str]:
    return [each.item_id for each in (await store.history(user_id)).events]


async def test_an_unknown_person_has_no_history(store: EventStore) -> None:
    history = await store.history("nobody")
    assert (list(history.events), history.forgotten_us) == ([], None)


async def test_events_come_back_whole_and_by_time_also_late_ones(store: EventStore) -> None:
    first, last, late = event("a", 10, "1"), event("c", 30, "2", event_type="buy"), event("b", 20, "3")
    await store.append([first, last])
    assert list((await store.history("u")).events) == [first, last]
    await store.append([late])
    assert list((await store.history("u")).events) == [first, late, last]


async def test_events_of_one_time_keep_the_order_of_their_arrival(store: EventStore) -> None:
    for number in range(4):
        await store.append([event(f"i{number}", 7, f"e{9 - number}")])
    assert await items(store) == ["i0", "i1", "i2", "i3"]


async def test_the_same_event_again_changes_nothing(store: EventStore) -> None:
    await store.append([event("a", 10, "1"), event("b", 20, "1")])
    await store.append([event("c", 30, "1")])
    assert await items(store) == ["a"]
    await store.append([event("c", 30, "1", user_id="another")])
    assert await items(store, "another") == ["c"]


async def test_the_newest_events_of_each_person_are_kept(store: EventStore) -> None:
    await store.append([event(f"i{time_us}", time_us, str(time_us)) for time_us in range(8)])
    await store.append([event("old", -1, "old"), event("x", 1, "x", user_id="another")])
    assert await items(store) == ["i3", "i4", "i5", "i6", "i7"]
    assert await items(store, "another") == ["x"]
    await store.append([event("again", 99, "0")])  # its first version had to make room, and is forgotten
    assert await items(store) == ["i4", "i5", "i6", "i7", "again"]


async def test_a_forgotten_person_begins_anew(store: EventStore) -> None:
    await store.append([event("a", 10, "1"), event("b", 20, "2")])
    assert await store.forget("u", 1_000) == 2
    assert await store.history("u") == LiveHistory([], 1_000)
    await store.append([event("c", 30, "1")])
    assert await items(store) == ["c"]
    assert await store.forget("u", 2_000) == 1
    assert await store.forget("nobody", 2_000) == 0


async def test_what_was_acknowledged_is_there_after_opening_again(open_store: Open) -> None:
    first = open_store()
    await first.append([event("a", 10, "1")])
    await first.forget("v", 5)
    await first.close()
    second = open_store()
    assert await items(second) == ["a"]
    assert (await second.history("v")).forgotten_us == 5
    await second.close()


@pytest.mark.parametrize("user_id", ["{}", "}x{", "a:b", "ü" * 128, "\x00", "' OR 1=1 --"])
async def test_any_text_will_do_as_an_id(store: EventStore, user_id: str) -> None:
    whole = Event(user_id, user_id, 1, user_id, user_id, user_id)
    await store.append([whole])
    assert list((await store.history(user_id)).events) == [whole]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "forget"]),
        st.sampled_from("uv"),
        st.integers(0, 6),
        st.sampled_from("123456789"),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=60)
def test_any_order_of_calls_leaves_what_a_plain_list_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int, str]]
) -> None:
    async def compare() -> None:
        store = SqliteEvents(tmp_path_factory.mktemp("events"), MAX_EVENTS)
        plain: dict[str, list[Event]] = {"u": [], "v": []}
        for step, user_id, time_us, event_id in steps:
            if step == "forget":
                assert await store.forget(user_id, 0) == len(plain[user_id])
                plain[user_id] = []
                continue
            new = event(event_id, time_us, event_id, user_id)
            await store.append([new])
            if event_id not in {each.event_id for each in plain[user_id]}:
                plain[user_id] = sorted([*plain[user_id], new], key=lambda each: each.time_us)[-MAX_EVENTS:]
            assert list((await store.history(user_id)).events) == plain[user_id]
        await store.close()

    asyncio.run(compare())


@pytest.mark.parametrize("change", ["append", "forget"])
async def test_a_change_whose_caller_is_gone_is_seen_once_it_is_done(tmp_path: Path, change: str) -> None:
    store = SqliteEvents(tmp_path, MAX_EVENTS)
    await store.append([event("a", 10, "1")])
    committing, go_on = threading.Event(), threading.Event()

    def hold_the_commit(statement: str) -> None:
        if statement.startswith("COMMIT"):
            committing.set()
            go_on.wait(timeout=30)

    store._writing.set_trace_callback(hold_the_commit)
    writing = asyncio.ensure_future(
        store.append([event("b", 20, "2")]) if change == "append" else store.forget("u", 1_000)
    )
    assert await asyncio.to_thread(committing.wait, 30)
    writing.cancel()
    await asyncio.wait([writing])
    assert await items(store) == ["a"]  # kept in memory from here on, while the change is still under way
    go_on.set()
    await store.append([event("c", 1, "1", user_id="another")])  # done after it: one thread writes
    known = store.at_hand("u") or await store.history("u")
    assert [each.item_id for each in known.events] == (["a", "b"] if change == "append" else [])
    await store.close()


async def test_a_copy_of_the_sqlite_file_made_while_it_is_used_restores_the_events(tmp_path: Path) -> None:
    """As docs/state.md would do it: `sqlite3 histories.sqlite ".backup copy"`."""
    live = SqliteEvents(tmp_path / "live", MAX_EVENTS)
    await live.append([event("a", 10, "1")])
    source, copy = sqlite3.connect(tmp_path / "live" / HISTORIES_FILE), sqlite3.connect(tmp_path / "copy")
    source.backup(copy)
    source.close()
    copy.close()
    await live.append([event("b", 20, "2")])
    await live.close()
    (tmp_path / "restored").mkdir()
    shutil.copy(tmp_path / "copy", tmp_path / "restored" / HISTORIES_FILE)
    restored = SqliteEvents(tmp_path / "restored", MAX_EVENTS)
    assert await items(restored) == ["a"]
    await restored.close()


async def test_a_copy_of_redis_files_restores_the_events(tmp_path: Path) -> None:
    with redis_server(tmp_path / "live") as live:
        store = RedisEvents(live.url, MAX_EVENTS, timeout_s=5)
        await store.append([event("a", 10, "1")])
        await store.close()
        shutil.copytree(tmp_path / "live" / "appendonlydir", tmp_path / "restored" / "appendonlydir")
        live.kill()
    with redis_server(tmp_path / "restored") as restored:
        store = RedisEvents(restored.url, MAX_EVENTS, timeout_s=5)
        assert await items(store) == ["a"]
        await store.close()


async def test_a_long_history_crosses_the_wire_once_and_changes_of_other_gateways_are_seen(server: RedisServer) -> None:
    here, there = (RedisEvents(server.url, 2_000, timeout_s=5) for _ in range(2))
    with Redis.from_url(server.url) as client:
        client.flushall()
        sent = [event(f"item-{number}", number, str(number)) for number in range(1_500)]
        await there.append(sent)
        known = await here.history("u")
        assert list(known.events) == sent
        before = client.info("stats")["total_net_output_bytes"]
        assert await here.history("u") is known
        assert client.info("stats")["total_net_output_bytes"] - before < 20_000
    late = event("late", 0, "late")
    await there.append([late])
    assert list((await here.history("u")).events) == [sent[0], late, *sent[1:]]
    await there.forget("u", 1_000)
    assert await here.history("u") == LiveHistory([], 1_000)
    await there.append(sent)
    assert list((await here.history("u")).events) == sent
    await here.forget("u", 2_000)
    await there.append([late])
    assert await here.history("u") == LiveHistory([late], 2_000)
    for store in (here, there):
        await store.close()


async def test_two_gateways_do_not_share_one_directory(tmp_path: Path) -> None:
    store = SqliteEvents(tmp_path, MAX_EVENTS)
    with pytest.raises(UsageError, match="CLOZEREC_REDIS_URL"):
        SqliteEvents(tmp_path, MAX_EVENTS)
    await store.close()


def test_a_damaged_file_and_a_wrong_place_are_named(tmp_path: Path) -> None:
    (tmp_path / HISTORIES_FILE).write_bytes(b"this is no database" * 100)
    with pytest.raises(UsageError, match=HISTORIES_FILE):
        SqliteEvents(tmp_path, MAX_EVENTS)
    with pytest.raises(UsageError, match="state directory"):
        SqliteEvents(tmp_path / HISTORIES_FILE / "below", MAX_EVENTS)
    with pytest.raises(UsageError, match="CLOZEREC_REDIS_URL"):
        RedisEvents("http://somewhere", MAX_EVENTS, timeout_s=1)


async def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path) -> None:
    store = SqliteEvents(tmp_path, 10_000)
    await store.append([event("a", 10, "1")])
    store._writing.execute("PRAGMA max_page_count = 12")
    with pytest.raises(StorageFull):
        await store.append([event("b" * 200, number, f"e{number}") for number in range(1_000)])
    assert await items(store) == ["a"]
    await store.close()


async def test_a_redis_that_is_frozen_or_gone_is_said_in_time_and_comes_back(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = RedisEvents(server.url, MAX_EVENTS, timeout_s=0.2)
        await store.append([event("a", 10, "1")])
        server.freeze()
        with pytest.raises(HistoryStoreGone):
            await store.history("u")
        server.thaw()
        assert await items(store) == ["a"]
        server.kill()
        with pytest.raises(HistoryStoreGone):
            await store.append([event("b", 20, "2")])
    with redis_server(tmp_path):
        assert await items(store) == ["a"]
        await store.append([event("b", 20, "2")])
        assert await items(store) == ["a", "b"]
    await store.close()
