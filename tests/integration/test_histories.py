"""Live events through the public API: the next request sees them, whatever the store."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import polars as pl
import pytest
import pytest_asyncio
import toy_world
from google.protobuf import timestamp_pb2
from redis_server import redis_server

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core.bundle import Bundle
from clozerec_gateway import redis_events
from clozerec_gateway.sqlite_events import SqliteEvents
from clozerec_trainer.payload import Payload, parse_payload
from clozerec_trainer.train import train
from integration.conftest import TIMEOUT_S, Gateway, running

NEXT_YEAR = toy_world.FIRST_EVENT + timedelta(days=365)
SHOPPER = "user-3"


@pytest_asyncio.fixture(params=["sqlite", "redis", "redis, all histories long"])
async def gateway(
    request: pytest.FixtureRequest, toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    if request.param == "redis, all histories long":
        monkeypatch.setattr(redis_events, "LONG_HISTORY", 0)
    if request.param == "sqlite":
        async with running(toy_bundle, "all in one") as started:
            yield started
        return
    with redis_server(tmp_path) as server:
        async with running(toy_bundle, "all in one", redis_url=server.url) as started:
            yield started


def event(item_id: str, minute: int, user_id: str = "newcomer", **fields: Any) -> dict[str, Any]:
    time = (NEXT_YEAR + timedelta(minutes=minute)).isoformat()
    return {"user_id": user_id, "item_id": item_id, "time": time, "event_id": f"{user_id}-{minute}", **fields}


async def record(gateway: Gateway, *events: dict[str, Any]) -> list[dict[str, Any]]:
    status, document, _ = await gateway.post("/v1/interactions", {"interactions": list(events)})
    assert status == 200, document
    return document["statuses"]


async def next_of(gateway: Gateway, user_id: str = "newcomer") -> tuple[str, str]:
    _, answer, _ = await gateway.post("/v1/recommend", {"query_type": "user_to_item", "user_id": user_id, "top_k": 1})
    return answer["items"][0]["item_id"], answer["fallback"]


async def test_the_next_request_sees_what_was_recorded(gateway: Gateway) -> None:
    assert (await next_of(gateway))[1] == "popularity"
    await record(gateway, event("c", 1), event("d", 2), event("e", 3))
    assert await next_of(gateway) == ("f", "none")
    await record(gateway, event("f", 4))
    assert await next_of(gateway) == ("g", "none")


async def test_live_events_follow_the_bundles_history(gateway: Gateway) -> None:
    for minute, item_id in enumerate("abc"):
        await record(gateway, event(item_id, minute, SHOPPER))
    answer = await gateway.recommend(query_type="user_to_item", user_id=SHOPPER, exclude_seen=False, top_k=1)
    assert [item.item_id for item in answer.items] == ["d"]
    ids = await gateway.ids(query_type="item_to_item", item_id="p", user_id=SHOPPER, top_k=100)
    assert not set(ids) & set("abc")


async def test_a_late_event_takes_its_place_in_time(gateway: Gateway) -> None:
    await record(gateway, event("h", 10), event("j", 30))
    await record(gateway, event("i", 20))
    assert await next_of(gateway) == ("k", "none")


async def test_a_repeated_call_is_harmless(gateway: Gateway) -> None:
    events = [event("c", 1), event("d", 2)]
    first, second = await record(gateway, *events), await record(gateway, *events)
    assert first == second
    assert [status["status"]["code"] for status in first] == [0, 0]
    _, answer, _ = await gateway.post("/v1/users:delete", {"user_id": "newcomer"})
    assert answer["erased_events"] == 2


async def test_each_event_has_its_own_status(gateway: Gateway) -> None:
    bad, without_id = event("d", 2) | {"item_id": "x" * 257}, event("d", 3)
    del without_id["event_id"]
    statuses = await record(gateway, event("c", 1), bad, without_id)
    assert [status["status"]["code"] for status in statuses] == [0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 0]
    (detail,) = [each for each in statuses[1]["status"]["details"] if each["@type"].endswith("BadRequest")]
    assert detail["field_violations"][0]["field"] == "interactions[1].item_id"
    assert statuses[2]["event_id"]
    assert (await next_of(gateway))[0] == "e"


async def test_a_call_without_events_or_with_too_many_is_refused_whole(gateway: Gateway) -> None:
    for events in ([], [event("c", 1)] * 1_001):
        status, document, _ = await gateway.post("/v1/interactions", {"interactions": events})
        assert (status, document["error"]["code"]) == (400, "INVALID_ARGUMENT")


async def test_a_time_no_calendar_has_is_refused(gateway: Gateway) -> None:
    wrong = recommender_pb2.LiveInteraction(
        user_id="u", item_id="a", time=timestamp_pb2.Timestamp(seconds=2**60), event_id="e"
    )
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        answer = await RecommenderServiceStub(channel).RecordInteractions(
            recommender_pb2.RecordInteractionsRequest(interactions=[wrong]), timeout=TIMEOUT_S
        )
    assert answer.statuses[0].status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_events_of_unknown_items_are_kept_and_do_not_disturb(gateway: Gateway) -> None:
    statuses = await record(gateway, event("nobody-knows-it", 1))
    assert statuses[0]["status"]["code"] == 0
    assert (await next_of(gateway))[1] == "popularity"
    await record(gateway, event("c", 2), event("d", 3))
    assert await next_of(gateway) == ("e", "none")


async def test_a_forgotten_person_is_unknown_and_told_what_remains(gateway: Gateway) -> None:
    await record(gateway, event("a", 1, SHOPPER))
    status, document, _ = await gateway.post("/v1/users:delete", {"user_id": SHOPPER})
    assert status == 200
    assert document["erased_events"] == 1
    assert document["trained_bundle_ids"] == [gateway.bundle.bundle_id]
    assert gateway.bundle.bundle_id in document["remains"]
    assert (await next_of(gateway, SHOPPER))[1] == "popularity"
    everything = await gateway.ids(query_type="user_to_item", user_id=SHOPPER, top_k=100)
    assert set(everything) == set(toy_world.ITEM_IDS)
    await record(gateway, event("c", 1, SHOPPER), event("d", 2, SHOPPER))
    assert await next_of(gateway, SHOPPER) == ("e", "none")
    _, document, _ = await gateway.post("/v1/users:delete", {"user_id": "nobody"})
    assert document == {"erased_events": 0, "trained_bundle_ids": [], "remains": ""}
    status, document, _ = await gateway.post("/v1/users:delete", {})
    assert (status, document["error"]["details"][1]["field_violations"][0]["field"]) == (400, "user_id")


async def test_the_newest_ten_thousand_distinct_items_of_a_person_are_left_out(toy_bundle: Bundle) -> None:
    """Unknown ids count as any others; an item that comes up again counts once."""
    settings = {"max_live_events": 20_000, "history_timeout_s": TIMEOUT_S}
    async with running(toy_bundle, "all in one", **settings) as gateway:

        async def offered() -> set[str]:
            query = {"query_type": "item_to_item", "item_id": "e", "user_id": "collector", "top_k": 100}
            answer = await gateway.recommend(**query)
            assert answer.fallback == recommender_pb2.FALLBACK_NONE
            return {item.item_id for item in answer.items}

        walk = ["a", "b", *[f"x-{number}" for number in range(9_998)], *["x-7"] * 500]
        for start in range(0, len(walk), 1_000):
            events = [
                event(item_id, start + place, "collector") for place, item_id in enumerate(walk[start : start + 1_000])
            ]
            await record(gateway, *events)
        assert not {"a", "b"} & await offered()
        await record(gateway, event("one-more", 20_000, "collector"))
        assert {"a", "b"} & await offered() == {"a"}


async def test_a_forgotten_person_leaves_no_bytes_in_any_file(toy_bundle: Bundle, tmp_path: Path) -> None:
    """Deleted rows, the log and free pages included; the others' events, among which theirs lay, are still there."""
    user_id = "somebody-with-a-name-of-their-own"

    def has_bytes() -> dict[str, bool]:
        return {path.name: user_id.encode() in path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    async with running(toy_bundle, "all in one", state_dir=tmp_path) as gateway:
        for minute in range(0, 600, 3):
            await record(
                gateway,
                event("a", minute, "other-1"),
                event("b", minute, user_id, recommendation_id=f"for {user_id}"),
                event("c", minute, "other-2"),
            )
        assert (await next_of(gateway, user_id))[1] == "none"
        assert has_bytes()["histories.sqlite-wal"]
        status, document, _ = await gateway.post("/v1/users:delete", {"user_id": user_id})
        assert (status, document["erased_events"]) == (200, 200)
        assert not any(has_bytes().values())
        assert (await next_of(gateway, "other-1"))[1] == "none"
    assert not any(has_bytes().values())


async def test_copies_of_both_files_restore_over_a_directory_in_use(toy_bundle: Bundle, tmp_path: Path) -> None:
    """The steps of docs/state.md, over what a gateway leaves that was killed: files with a log beside them."""
    live, left, copies = tmp_path / "live", tmp_path / "left", tmp_path / "copies"
    copies.mkdir()
    files = ("histories.sqlite", "catalogue.sqlite")
    everything = {"query_type": "user_to_item", "user_id": "nobody", "top_k": 100}
    async with running(toy_bundle, "all in one", state_dir=live) as gateway:
        await record(gateway, event("c", 1), event("d", 2))
        await gateway.post("/v1/items:upsert", {"items": [{"item_id": "new", "metadata": {"year": 2026}}]})
        await gateway.post("/v1/items:delete", {"item_ids": ["d"]})
        for name in files:
            source, copy = sqlite3.connect(live / name), sqlite3.connect(copies / name)
            source.backup(copy)  # as `.backup` of the command line does
            source.close()
            copy.close()
        expected = await gateway.ids(**everything)
        before = await next_of(gateway), await next_of(gateway, SHOPPER)
        await record(gateway, event("h", 3))
        await gateway.post("/v1/users:delete", {"user_id": SHOPPER})
        await gateway.post("/v1/items:delete", {"item_ids": ["e", "new"]})
        shutil.copytree(live, left)
    assert all((left / f"{name}{suffix}").exists() for name in files for suffix in ("-wal", "-shm"))
    for name in files:
        for suffix in ("-wal", "-shm"):
            (left / f"{name}{suffix}").unlink()
        shutil.copy(copies / name, left / name)
    async with running(toy_bundle, "all in one", state_dir=left) as gateway:
        assert await gateway.ids(**everything) == expected
        assert (await next_of(gateway), await next_of(gateway, SHOPPER)) == before


async def test_events_outlive_a_restart(toy_bundle: Bundle, tmp_path: Path) -> None:
    async with running(toy_bundle, "all in one", state_dir=tmp_path) as gateway:
        await record(gateway, event("c", 1), event("d", 2))
    async with running(toy_bundle, "all in one", state_dir=tmp_path) as gateway:
        assert await next_of(gateway) == ("e", "none")


def toy_world_with_glances(directory: Path) -> Payload:
    """What shoppers take counts twice; after each they glance at another item, which does not count."""
    keys = toy_world.write_toy_data(directory)
    log = toy_world.interactions_frame()
    glances = log.with_columns(pl.col("item_id").reverse(), pl.col("timestamp") + 30, pl.lit("glance").alias("kind"))
    pl.concat([log.with_columns(pl.lit("buy").alias("kind")), glances]).write_parquet(
        directory / "interactions.parquet"
    )
    weights = {"event_type_column": "kind", "event_weights": {"glance": 0, "buy": 2}}
    return parse_payload({**keys, **weights}, directory)


async def test_events_of_a_type_without_weight_count_neither_in_training_nor_live(tmp_path: Path) -> None:
    bundle = (await asyncio.to_thread(train, toy_world_with_glances(tmp_path / "data"), tmp_path)).bundle
    async with running(bundle, "all in one") as gateway:
        assert await next_of(gateway, SHOPPER) == ("h", "none")  # after a to g
        await record(gateway, event("c", 1, event_type="glance"))
        assert (await next_of(gateway))[1] == "popularity"
        await record(gateway, event("d", 2, event_type="buy"), event("p", 3, event_type="glance"))
        assert await next_of(gateway) == ("e", "none")


async def everything_kept(state_dir: Path) -> list[str]:
    store = SqliteEvents(state_dir, 100_000)
    history = await store.history("u")
    await store.close()
    return [each.item_id for each in history.events]


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """A writer is killed in the middle of its work; all that it said was written is there."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from clozerec_gateway.events import Event\n"
        "from clozerec_gateway.sqlite_events import SqliteEvents\n"
        "async def main():\n"
        "    store = SqliteEvents(Path(sys.argv[1]), 100_000)\n"
        "    for number in range(100_000):\n"
        "        await store.append([Event('u', str(number), number, '', str(number))])\n"
        "        print(number, flush=True)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 25:
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else 25
    kept = asyncio.run(everything_kept(tmp_path))
    assert kept[: acknowledged + 1] == [str(number) for number in range(acknowledged + 1)]
    assert len(kept) <= acknowledged + 2
