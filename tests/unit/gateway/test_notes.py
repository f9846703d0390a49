"""What every store of notes promises, and how a gateway's own picture of the catalogue follows one."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis
from redis_server import RedisServer

from clozerec_core.bundle import Bundle
from clozerec_core.predicate import EVERYTHING
from clozerec_gateway.clients import Selection
from clozerec_gateway.kept_catalogue import KeptCatalogue
from clozerec_gateway.notes import Note, NoteStore
from clozerec_gateway.redis_events import RedisEvents
from clozerec_gateway.sqlite_events import HISTORIES_FILE, SqliteEvents
from unit.gateway.conftest import MAX_EVENTS, Open

late_us = itertools.count(2**52, 1_000).__next__
"""Times after any bundle was made, each later than the one before."""


@pytest.fixture
async def shared(server: RedisServer) -> AsyncIterator[RedisEvents]:
    """A store that two catalogues share."""
    with Redis.from_url(server.url) as client:
        client.flushall()
    opened = RedisEvents(server.url, MAX_EVENTS, timeout_s=5)
    yield opened
    await opened.close()


def note(item_id: str, deleted: bool = False, display_name: str = "") -> Note:
    return Note(item_id, deleted, late_us(), display_name)


async def say(kept: KeptCatalogue, store: NoteStore, *notes: Note) -> None:
    """As a gateway does with what was said through it."""
    kept.apply(notes, await store.write_notes(notes))


def ids(kept: KeptCatalogue) -> list[str]:
    selection = Selection(top_k=1_000, where=EVERYTHING, exclude_item_ids=[], exclude_rows=[], metadata_fields=[])
    return [candidate.item_id for candidate in kept.popular(selection).candidates]


def bytes_sent(server: RedisServer) -> int:
    with Redis.from_url(server.url) as client:
        return int(client.info("stats")["total_net_output_bytes"])


async def test_notes_come_in_the_order_in_which_their_items_first_did(
    open_store: Open,
) -> None:
    store = open_store()
    first, second = [note("z"), note("k"), note("m")], [note("a"), note("z", deleted=True)]
    await store.write_notes(first)
    await store.write_notes(second)
    version, notes = await store.notes_since(0)
    expected = [second[1], *first[1:], second[0]]
    assert list(notes) == expected
    assert await store.notes_since(version) == (version, ())
    await store.close()
    store = open_store()
    _, notes = await store.notes_since(0)
    assert list(notes) == expected
    await store.close()


async def test_notes_of_an_older_release_are_read(
    request: pytest.FixtureRequest, tmp_path: Path, open_store: Open
) -> None:
    """It wrote notes alone, without their order."""
    store = open_store()
    old, new = [note("zebra"), note("ant", deleted=True)], note("monkey")
    await store.write_notes(old)
    await store.close()
    if isinstance(store, SqliteEvents):
        with closing(sqlite3.connect(tmp_path / HISTORIES_FILE)) as connection:
            connection.execute("DROP TABLE noted")
    else:
        with Redis.from_url(request.getfixturevalue("server").url) as client:
            client.delete("clozerec:{catalogue}:noted")
    store = open_store()
    await store.write_notes([new])
    assert list((await store.notes_since(0))[1]) == [*old, new]
    await store.close()


async def test_two_gateways_agree_on_the_order_of_what_callers_added(toy_bundle: Bundle, shared: RedisEvents) -> None:
    one, other = KeptCatalogue(toy_bundle, shared), KeptCatalogue(toy_bundle, shared)
    for number, item_id in enumerate(["zebra", "lion", "ant", "monkey"]):
        await say((one, other)[number % 2], shared, note(item_id))
    await one.refresh()
    await other.refresh()
    assert ids(one)[-4:] == ids(other)[-4:] == ["zebra", "lion", "ant", "monkey"]
    await say(one, shared, note("lion", deleted=True))
    await say(one, shared, note("lion"))
    await other.refresh()
    assert ids(one)[-4:] == ids(other)[-4:] == ["zebra", "lion", "ant", "monkey"]


async def test_many_who_want_the_news_read_it_once(
    toy_bundle: Bundle, shared: RedisEvents, server: RedisServer
) -> None:
    one, other = KeptCatalogue(toy_bundle, shared), KeptCatalogue(toy_bundle, shared)
    await say(other, shared, *(note(f"item-{number}", display_name="x" * 1_000) for number in range(200)))
    before = bytes_sent(server)
    await asyncio.gather(*(one.refresh() for _ in range(50)))
    sent = bytes_sent(server) - before
    assert 200_000 < sent < 400_000  # once; fifty times would be 10 million
    assert ids(one)[-200:] == [f"item-{number}" for number in range(200)]


async def test_what_was_said_here_is_no_news(toy_bundle: Bundle, shared: RedisEvents, server: RedisServer) -> None:
    kept = KeptCatalogue(toy_bundle, shared)
    await kept.refresh()
    await say(kept, shared, *(note(f"item-{number}", display_name="x" * 1_000) for number in range(200)))
    before = bytes_sent(server)
    await kept.refresh()
    assert bytes_sent(server) - before < 100_000
    assert ids(kept)[-1] == "item-199"


async def test_what_is_said_while_the_news_is_read_is_not_lost(toy_bundle: Bundle, shared: RedisEvents) -> None:
    one, other = KeptCatalogue(toy_bundle, shared), KeptCatalogue(toy_bundle, shared)
    await say(other, shared, *(note(f"item-{number}") for number in range(2_000)))
    reading = asyncio.create_task(one.refresh())
    first = one.is_known("item-0")
    while not reading.done():
        await say(one, shared, note("a", deleted=True))
        assert one.is_deleted("a")
    await reading
    assert (first, one.is_known("item-0"), one.is_deleted("a")) == (False, True, True)


async def test_who_asks_for_the_news_gets_what_was_said_before(toy_bundle: Bundle, shared: RedisEvents) -> None:
    """Also who asks while an older reading is under way."""
    one, other = KeptCatalogue(toy_bundle, shared), KeptCatalogue(toy_bundle, shared)
    await say(other, shared, *(note(f"item-{number}") for number in range(2_000)))
    reading = asyncio.create_task(one.refresh())
    for item_id in toy_bundle.catalogue.item_ids:
        await say(other, shared, note(item_id, deleted=True))
        await one.refresh()
        assert one.is_deleted(item_id)
    await reading


async def test_a_deletion_of_what_nobody_knows_is_kept_for_a_bundle_that_will(
    toy_bundle: Bundle, shared: RedisEvents
) -> None:
    kept = KeptCatalogue(toy_bundle, shared)
    await say(kept, shared, note("nobody-knows-it", deleted=True))
    assert not kept.is_known("nobody-knows-it")
    _, notes = await shared.notes_since(0)
    assert [each.item_id for each in notes] == ["nobody-knows-it"]
