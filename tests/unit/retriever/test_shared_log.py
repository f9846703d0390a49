"""Many retrievers of one catalogue: what any of them acknowledged is everywhere, in one order, whatever fails."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import make_catalogue, random_vectors, write_bundle
from film_shop import DUNE, Caller, condition, running, shop
from google.rpc import code_pb2
from kill_loop import SCHEMA as KILL_SCHEMA
from kill_loop import State, kill_once
from redis import Redis
from redis_server import RedisServer, redis_server

from clozerec.v1 import retriever_pb2
from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import SharedLogGone, StorageFull, UsageError
from clozerec_retriever import shared_log
from clozerec_retriever.assembly import build
from clozerec_retriever.journal import Journal
from clozerec_retriever.records import Drop, Put
from clozerec_retriever.replica import Replica
from clozerec_retriever.settings import RetrieverSettings
from clozerec_retriever.shared_log import KEYS, SharedLog

SHOP_IDS = ["alien", "brazil", "cube", *(f"new {number}" for number in range(5))]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def url(server: RedisServer) -> str:
    """Of an empty Redis."""
    with Redis.from_url(server.url) as client:
        client.flushall()
    return server.url


async def everything(caller: Caller) -> dict[str, Any]:
    """All that callers can see of a catalogue, rows and the order of ties included; caught up with all others."""
    request = retriever_pb2.RetrieverServiceGetItemsRequest(item_ids=SHOP_IDS, include_content=True)
    items = (await caller.stub.GetItems(request, timeout=5)).items
    popular = await caller.stub.ListPopular(retriever_pb2.ListPopularRequest(top_k=100), timeout=5)
    found = await caller.stub.Search(
        retriever_pb2.SearchRequest(bundle_id="tiny", intent=[0.6, 0.8], top_k=100), timeout=5
    )
    shown = [
        (each.item_id, each.row, each.score, str(each.metadata)) for each in (*found.candidates, *popular.candidates)
    ]
    return {"items": [item.SerializeToString(deterministic=True) for item in items], "shown": shown}


async def test_what_one_took_is_on_it_at_once_and_on_all_others(bundle: Bundle, tmp_path: Path, url: str) -> None:
    async with (
        running(bundle, tmp_path / "a", redis_url=url) as first,
        running(bundle, tmp_path / "b", redis_url=url) as second,
    ):
        assert await first.upsert(DUNE) == [0]
        assert await first.near(0, 1) == ["cube", "dune", "brazil", "alien"]
        assert (await second.item("dune")).known  # whoever reads an item waits for what was acknowledged elsewhere
        assert await second.near(0, 1) == ["cube", "dune", "brazil", "alien"]
        renewed = {"item_id": "dune", "content": [1, 0], "text": DUNE["text"]}
        assert await second.renew(renewed, renewed | {"text": "another"}) == [0, code_pb2.NOT_FOUND]
        assert list((await first.item("dune")).content) == [1, 0]
        assert await second.delete("dune", "cube") == [0, 0]
        assert await second.near(0, 1) == ["brazil", "alien"]
        async with asyncio.timeout(20):
            while await first.near(0, 1) != ["brazil", "alien"]:  # noqa: ASYNC110  # nobody tells it; that is tested
                await asyncio.sleep(0)
        assert await first.upsert({"item_id": "dune", "metadata": {"price": 1}}, mask=["price"]) == [code_pb2.NOT_FOUND]


async def test_changes_of_single_columns_through_several_at_once_are_all_there(
    bundle: Bundle, tmp_path: Path, url: str
) -> None:
    """Each names a column of its own, so none may overwrite what the other said meanwhile."""
    async with (
        running(bundle, tmp_path / "a", redis_url=url) as first,
        running(bundle, tmp_path / "b", redis_url=url) as second,
    ):
        await first.upsert(DUNE)
        for number in range(20):
            price, stock = (
                {"item_id": "dune", "metadata": {"price": number}},
                {
                    "item_id": "dune",
                    "metadata": {"stock": number},
                },
            )
            await asyncio.gather(first.upsert(price, mask=["price"]), second.upsert(stock, mask=["stock"]))
            for caller in (first, second):
                metadata = await caller.metadata("dune")
                assert (metadata["price"], metadata["stock"], metadata["title"]) == (number, number, "Dune")


@pytest.mark.parametrize("seed", range(4))
async def test_any_interleaving_leaves_the_same_catalogue_everywhere(
    bundle: Bundle, tmp_path: Path, url: str, seed: int
) -> None:
    """Changes sent through three at once, one of which stops and begins again on the way; and the truth, in the end, of
    what was said one after the other."""
    chance = random.Random(seed)

    def change(number: int) -> dict[str, Any]:
        item_id = chance.choice(SHOP_IDS)
        return {
            "item_id": item_id,
            "metadata": {"title": f"Title {number}", "stock": number},
            "content": chance.choice([[1, 0], [0, 1], [0.6, 0.8], []]),
        }

    async def one_change(caller: Caller, number: int) -> None:
        what = chance.random()
        if what < 0.4:
            await caller.upsert(*(change(number) for _ in range(chance.randint(1, 3))))
        elif what < 0.7:
            some = {"item_id": chance.choice(SHOP_IDS), "metadata": {"stock": number}}
            await caller.upsert(some, mask=["stock"])
        else:
            await caller.delete(*chance.sample(SHOP_IDS, 2))

    async with AsyncExitStack() as stack:
        callers = [
            await stack.enter_async_context(running(bundle, tmp_path / name, redis_url=url)) for name in ("a", "b")
        ]
        for turn in range(3):
            async with running(bundle, tmp_path / "c", redis_url=url) as third:
                for number in range(8):
                    await asyncio.gather(
                        *(one_change(each, 100 * turn + number) for each in (*callers, third, chance.choice(callers)))
                    )
            await one_change(callers[0], 1_000 + turn)
        for item_id in SHOP_IDS:
            last = change(9_999) | {"item_id": item_id}
            await callers[chance.random() < 0.5].upsert(last)
            gone = chance.random() < 0.3
            if gone:
                await callers[chance.random() < 0.5].delete(item_id)
            for caller in callers:
                item = await caller.item(item_id)
                assert (item.known, item.display_name) == ((False, "") if gone else (True, "Title 9999"))
                assert list(item.content) == pytest.approx([] if gone else last["content"])
        for name in ("c", "fresh"):
            callers.append(await stack.enter_async_context(running(bundle, tmp_path / name, redis_url=url)))
        states = [await everything(caller) for caller in callers]
        assert states[0]["shown"]
        assert states == [states[0]] * 4


async def test_who_has_missed_more_than_the_stream_keeps_still_gets_everything(
    bundle: Bundle, tmp_path: Path, url: str
) -> None:
    async with running(bundle, tmp_path / "late", redis_url=url) as late:
        await late.upsert(DUNE, DUNE | {"item_id": "new 1"})
    async with running(bundle, tmp_path / "a", redis_url=url) as first:
        await first.delete("new 1", "alien")
        await first.upsert(DUNE | {"item_id": "new 2"})
        with Redis.from_url(url) as client:
            assert client.xtrim(KEYS[1], maxlen=1, approximate=False) == 2
        async with running(bundle, tmp_path / "late", redis_url=url) as late:
            assert await late.near(0, 1) == ["cube", "dune", "new 2", "brazil"]
            assert await everything(late) == await everything(first)


@pytest.mark.parametrize("max_entries", [10, 1_000])
def test_the_stream_is_cut_and_whoever_follows_it_entry_by_entry_or_not_at_all_ends_at_the_same(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, max_entries: int
) -> None:
    monkeypatch.setattr(shared_log, "MAX_ENTRIES", max_entries)
    shared, journal = SharedLog(url), Journal(tmp_path)
    replica = Replica(journal, shared)
    list(replica.news())
    for number in range(250):
        shared.append([Put(f"item {number % 7}", {"s": str(number)})], {"s": ColumnType.STRING}, lambda _: False)
    batches = list(replica.news())
    with Redis.from_url(url) as client:
        assert client.xlen(KEYS[1]) == (250 if max_entries > 250 else pytest.approx(60, abs=60))
    assert (len(batches) > 1) is (max_entries > 250)
    assert journal.followed is not None
    assert journal.followed[1] == 250
    last = {f"item {number % 7}": str(number) for number in range(250)}
    assert {record.item_id: record.cells["s"] for record in journal.records()} == last
    journal.close()
    shared.close()


async def test_a_journal_becomes_the_beginning_of_a_log_and_of_one_that_was_lost(
    bundle: Bundle, tmp_path: Path, url: str
) -> None:
    async with running(bundle, tmp_path / "a") as alone:
        await alone.upsert(DUNE)
        await alone.delete("alien")
    async with running(bundle, tmp_path / "a", redis_url=url) as first:
        with Redis.from_url(url) as client:
            client.flushall()
        assert await first.near(0, 1) == ["cube", "dune", "brazil"]
        await first.upsert(DUNE | {"item_id": "new 1"})
        async with running(bundle, tmp_path / "b", redis_url=url) as second:
            assert await second.near(0, 1) == ["cube", "dune", "new 1", "brazil"]
            assert await everything(second) == await everything(first)
    async with running(bundle, tmp_path / "a") as alone:  # without the log again, and with it once more
        await alone.upsert(DUNE | {"metadata": {"title": "Later"}})
    async with (
        running(bundle, tmp_path / "a", redis_url=url),
        running(bundle, tmp_path / "b", redis_url=url) as second,
    ):
        assert (await second.item("dune")).display_name == "Later"


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_without_the_log_writes_fail_and_everything_else_goes_on(
    bundle: Bundle, tmp_path: Path, how: str
) -> None:
    with redis_server(tmp_path / "redis") as server:
        async with running(bundle, tmp_path / "a", redis_url=server.url) as caller:
            await caller.upsert(DUNE)
            server.freeze() if how == "frozen" else server.kill()
            for call in (caller.upsert(DUNE | {"item_id": "new 1"}), caller.delete("dune")):
                with pytest.raises(SharedLogGone) as refused:
                    await call
                assert (refused.value.status.name, refused.value.retry_s) == ("UNAVAILABLE", 1.0)
            assert await caller.near(0, 1, where=condition("stock", "EQ", integer_value=3)) == ["dune"]
            assert (await caller.item("dune")).known
            with pytest.raises(SharedLogGone):  # of what was deleted it knows nothing
                build(bundle, RetrieverSettings(bundle=bundle.path, state_dir=tmp_path / "new", redis_url=server.url))
            if how == "frozen":
                server.thaw()
                await caller.upsert(DUNE | {"item_id": "new 2"})
                assert "new 2" in await caller.near(0, 1)
            else:
                shutil.copytree(tmp_path / "a", tmp_path / "c", ignore=shutil.ignore_patterns("*.lock"))
                async with running(bundle, tmp_path / "c", redis_url=server.url) as again:
                    assert "dune" in await again.near(0, 1)  # a journal of the log serves what it knows
                with redis_server(tmp_path / "redis"):
                    await caller.upsert(DUNE | {"item_id": "new 2"})
                    assert "new 2" in await caller.near(0, 1)


async def test_a_full_redis_is_said_and_takes_nothing(
    bundle: Bundle, tmp_path: Path, server: RedisServer, url: str
) -> None:
    with Redis.from_url(server.url) as client:
        async with running(bundle, tmp_path / "a", redis_url=url) as caller:
            await caller.upsert(DUNE)
            client.config_set("maxmemory", 1)
            try:
                with pytest.raises(StorageFull, match="give Redis more memory"):
                    await caller.upsert(DUNE | {"item_id": "new 1"}, DUNE | {"item_id": "new 2"})
            finally:
                client.config_set("maxmemory", 0)
            assert await caller.near(0, 1) == ["cube", "dune", "brazil", "alien"]
            assert not (await caller.item("new 1")).known


def test_kill_nine_loses_nothing_that_was_acknowledged(tmp_path: Path, url: str) -> None:
    catalogue = make_catalogue({"number": [0, 0], "again": [0, 0]}, KILL_SCHEMA)
    bundle = write_bundle(tmp_path, catalogue, random_vectors(2, 4), [1, 1])
    must_be: State = {}
    assert sum(kill_once(bundle, tmp_path / "state", seed, must_be, url) for seed in range(1, 5)) > 0


def test_a_wrong_url_is_named() -> None:
    with pytest.raises(UsageError, match="CLOZEREC_REDIS_URL"):
        SharedLog("http://somewhere")


def test_records_cross_the_log_unchanged(tmp_path: Path, url: str) -> None:
    """Whatever an id, a text and a cell may hold."""
    schema = {
        "s": ColumnType.STRING,
        "b": ColumnType.BOOL,
        "i": ColumnType.INTEGER,
        "f": ColumnType.FLOAT,
        "d": ColumnType.DATETIME,
        "l": ColumnType.STRING_LIST,
    }
    cells = {"s": 'a"\n\x00é😀', "b": True, "i": 2**53, "f": 0.1, "d": -1, "l": ("x", "", "\n")}
    puts = [
        Put("\n 1 2\x00😀", cells, content=np.array([0.1, -1e-30], np.float32), text_model="m\n", text="t\n\x00"),
        Put("nothing", dict.fromkeys(schema), content=np.empty(0, np.float32)),
        Put("known", {"s": "x"}, masked=True),
        Drop("gone"),
    ]
    shared = SharedLog(url)
    shared.append(puts, schema, lambda item_id: item_id == "known")
    journal = Journal(tmp_path)
    (batch,) = Replica(journal, shared).news()
    for records in (batch, list(journal.records())):
        assert [record.item_id for record in records] == [put.item_id for put in puts]
        assert [record.ordinal for record in records] == [0, 1, 2, 3]
        assert [record.deleted for record in records] == [False, False, False, True]
        assert [record.cells for record in records] == [cells, dict.fromkeys(schema), {"s": "x"}, {}]
        assert records[0].kinds == schema
        assert [None if each.content is None else each.content.tolist() for each in records] == [
            puts[0].content.tolist(), [], None, None
        ]  # fmt: skip
        assert (records[0].text, records[0].text_model) == ("t\n\x00", "m\n")
    journal.close()
    shared.close()
