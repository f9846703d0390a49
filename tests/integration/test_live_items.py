"""Items that are added, changed and deleted through the public API, over real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
import toy_world

from clozerec_core.bundle import Bundle
from clozerec_gateway import assembly
from clozerec_gateway.notes import Note
from clozerec_gateway.settings import GatewaySettings
from clozerec_gateway.sqlite_events import SqliteEvents
from integration.conftest import Gateway, running

KETTLE = {"title": "steel tea kettle", "brand": "Acme", "in_stock": True, "year": 2026, "price": 30.0,
          "released": "2026-02-01T00:00:00Z", "genres": ["home"]}  # fmt: skip
OK, INVALID, NOT_FOUND = (code.value[0] for code in (
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND))  # fmt: skip


async def upsert(gateway: Gateway, *items: dict[str, Any], **fields: Any) -> list[int]:
    """Codes by item."""
    status, document, _ = await gateway.post("/v1/items:upsert", {"items": list(items), **fields})
    assert status == 200, document
    assert [result["item_id"] for result in document["results"]] == [item.get("item_id", "") for item in items]
    return [result["status"]["code"] for result in document["results"]]


async def delete(gateway: Gateway, *item_ids: str) -> None:
    status, document, _ = await gateway.post("/v1/items:delete", {"item_ids": list(item_ids)})
    assert status == 200, document
    assert [result["status"]["code"] for result in document["results"]] == [OK] * len(item_ids)


async def stored(gateway: Gateway, item_id: str) -> dict[str, Any] | None:
    _, document, _ = await gateway.post("/v1/items:get", {"item_ids": [item_id]})
    return document["items"][0] if document["items"] else None


async def test_an_added_item_is_recommended_by_all_types_from_the_next_request_on(text_gateway: Gateway) -> None:
    gateway = text_gateway
    assert await upsert(gateway, {"item_id": "kettle", "metadata": KETTLE}) == [OK]
    everything = {"top_k": 100, "exclude_seen": False}
    for query in (
        {"query_type": "item_to_item", "item_id": "e"},
        {"query_type": "item_to_item", "item_text": "a kettle for tea"},
        {"query_type": "user_to_item", "user_id": "user-3"},
        {"query_type": "user_to_item", "user_id": "nobody"},
        {"query_type": "contextual", "user_id": "user-3", "item_id": "d"},
        {"query_type": "sequential", "session_items": ["a", "b"]},
    ):
        assert "kettle" in await gateway.ids(**query, **everything)
    by_text = await gateway.recommend(query_type="item_to_item", item_text="steel tea kettle", top_k=1)
    assert [item.item_id for item in by_text.items] == ["kettle"]
    assert by_text.items[0].display_name == "steel tea kettle"
    popular = await gateway.recommend(query_type="user_to_item", user_id="nobody", top_k=100)
    assert (popular.items[-1].item_id, popular.items[-1].score) == ("kettle", 0)


async def test_an_added_item_is_found_by_filters_and_shown_as_it_was_sent(text_gateway: Gateway) -> None:
    gateway = text_gateway
    await upsert(gateway, {"item_id": "kettle", "metadata": KETTLE})
    ids = await gateway.ids(
        query_type="sequential", session_items=["a"], filters={"meta.year": 2026, "meta.genres": "home"}, top_k=100
    )
    assert ids == ["kettle"]
    item = await stored(gateway, "kettle")
    assert item == {"item_id": "kettle", "display_name": "steel tea kettle", "metadata": KETTLE}


async def test_an_added_item_counts_inside_sessions_histories_and_contexts(text_gateway: Gateway) -> None:
    """A twin of a known item by text alone moves the answer away from what the rest alone would give."""
    gateway = text_gateway
    await upsert(gateway, {"item_id": "twin", "metadata": {"title": toy_world.TITLES[3]}})
    options = {"top_k": 16, "exclude_seen": False}
    for with_twin, without in (
        ({"query_type": "sequential", "session_items": ["b", "twin"]}, {"session_items": ["b"]}),
        ({"query_type": "contextual", "user_id": "user-3", "item_id": "twin"}, {"item_id": "d"}),
    ):
        answer = await gateway.recommend(**with_twin, **options)
        assert not answer.unknown_item_ids
        other = await gateway.recommend(**with_twin | without, **options)
        assert [item.score for item in answer.items] != [item.score for item in other.items]
    status, _, _ = await gateway.post(
        "/v1/interactions", {"interactions": [{"user_id": "twin-lover", "item_id": "twin"}]}
    )
    assert status == 200
    history = await gateway.recommend(query_type="user_to_item", user_id="twin-lover", **options)
    session = await gateway.recommend(query_type="sequential", session_items=["twin"], **options)
    assert list(history.items) == list(session.items)


async def test_events_of_an_item_count_once_the_item_exists(text_gateway: Gateway) -> None:
    gateway = text_gateway
    await gateway.post("/v1/interactions", {"interactions": [{"user_id": "early", "item_id": "kettle"}]})
    query = {"query_type": "user_to_item", "user_id": "early"}
    _, before, _ = await gateway.post("/v1/recommend", query)
    assert before["fallback"] == "popularity"
    await upsert(gateway, {"item_id": "kettle", "metadata": KETTLE})
    _, after, _ = await gateway.post("/v1/recommend", query)
    assert after["fallback"] == "none"
    assert "kettle" not in [item["item_id"] for item in after["items"]]


async def test_a_deleted_item_is_gone_until_it_is_added_again(text_gateway: Gateway) -> None:
    gateway = text_gateway
    await upsert(gateway, {"item_id": "kettle", "metadata": KETTLE})
    await delete(gateway, "kettle", "e", "never-there")
    everything = {"top_k": 100, "exclude_seen": False}
    for query in (
        {"query_type": "item_to_item", "item_id": "a"},
        {"query_type": "user_to_item", "user_id": "user-3"},
        {"query_type": "user_to_item", "user_id": "nobody"},
        {"query_type": "sequential", "session_items": ["a", "b"]},
    ):
        assert not {"kettle", "e"} & set(await gateway.ids(**query, **everything))
    assert await stored(gateway, "e") is None
    for query in ({"query_type": "item_to_item"}, {"query_type": "contextual", "user_id": "user-3"}):
        for item_id in ("kettle", "e"):
            status, _, _ = await gateway.post("/v1/recommend", {**query, "item_id": item_id})
            assert status == 404
    answer = await gateway.recommend(query_type="sequential", session_items=["kettle", "a"])
    assert list(answer.unknown_item_ids) == ["kettle"]
    await upsert(gateway, {"item_id": "e", "metadata": {"title": toy_world.TITLES[4]}})
    assert "e" in await gateway.ids(query_type="item_to_item", item_id="a", **everything)


class HeldNotes(SqliteEvents):
    """Writes the note of an item that is there only when it may."""

    def __init__(self, settings: GatewaySettings) -> None:
        super().__init__(settings.state_beside(settings.bundle), settings.max_live_events)
        self.reached, self.may_go = asyncio.Event(), asyncio.Event()

    async def write_notes(self, notes: Sequence[Note]) -> int:
        if not notes[0].deleted:
            self.reached.set()
            await self.may_go.wait()
        return await super().write_notes(notes)


async def test_who_deletes_an_item_that_is_being_added_has_the_last_word(
    toy_bundle: Bundle, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[HeldNotes] = []

    def open_held(settings: GatewaySettings) -> HeldNotes:
        opened.append(HeldNotes(settings))
        return opened[0]

    monkeypatch.setattr(assembly, "open_store", open_held)
    async with running(toy_bundle, "all in one", state_dir=tmp_path) as gateway:
        (store,) = opened
        adding = asyncio.create_task(upsert(gateway, {"item_id": "kettle", "metadata": {"brand": "Acme"}}))
        await store.reached.wait()
        deleting = asyncio.create_task(delete(gateway, "kettle"))
        await asyncio.wait({deleting}, timeout=0.5)  # it waits for its turn, and else would be done by then
        store.may_go.set()
        assert await adding == [OK]
        await deleting
        assert await stored(gateway, "kettle") is None
        status, _, _ = await gateway.post("/v1/recommend", {"query_type": "item_to_item", "item_id": "kettle"})
        assert status == 404
        _, notes = await store.notes_since(0)
        assert [(note.item_id, note.deleted) for note in notes] == [("kettle", True)]


async def test_each_item_has_its_own_status(text_gateway: Gateway) -> None:
    codes = await upsert(
        text_gateway,
        {"item_id": "kettle", "metadata": KETTLE},
        {"item_id": "x", "metadata": {"colour": "red"}},
        {"item_id": "y", "metadata": {"year": "soon"}},
        {"item_id": "", "metadata": {}},
        {"item_id": "z", "text": "  "},
        {"item_id": "plain", "text": "a brass bell"},
        {"item_id": "large", "metadata": {"title": "x" * 70_000}},
    )
    assert codes == [OK, INVALID, INVALID, INVALID, INVALID, OK, INVALID]
    _, document, _ = await text_gateway.post("/v1/items:upsert", {"items": [{"item_id": "x", "metadata": {"yaer": 1}}]})
    (detail,) = [d for d in document["results"][0]["status"]["details"] if d["@type"].endswith("BadRequest")]
    assert detail["field_violations"][0]["field"] == "items[0].metadata.yaer"
    assert "year" in detail["field_violations"][0]["description"]


async def test_an_item_whose_text_is_not_read_to_its_end_is_told_so(text_gateway: Gateway) -> None:
    items = [
        {"item_id": "short", "text": "a brass bell"},
        {"item_id": "long", "text": "a brass bell " * 400},
        {"item_id": "made", "metadata": {"title": "a brass bell " * 1_000}},
        {"item_id": "none", "metadata": {"year": 2026}},
        {"item_id": "bad", "metadata": {"title": 1}},
    ]
    _, document, _ = await text_gateway.post("/v1/items:upsert", {"items": items})
    told = {result["item_id"]: (result["status"]["code"], result["text_truncated"]) for result in document["results"]}
    assert told == {
        "short": (OK, False),
        "long": (OK, True),
        "made": (OK, True),
        "none": (OK, False),
        "bad": (INVALID, False),
    }
    masked = {"items": [{"item_id": "made", "metadata": {"title": "a lamp"}}], "update_mask": "title"}
    _, document, _ = await text_gateway.post("/v1/items:upsert", masked)
    assert document["results"][0]["text_truncated"] is False


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"items": []}, "items"),
        ({"items": [{"item_id": "x"}] * 1001}, "items"),
        ({"items": [{"item_id": "a"}], "update_mask": "yaer"}, "update_mask[0]"),
    ],
)
async def test_a_call_that_is_wrong_as_a_whole_is_refused(gateway: Gateway, body: Any, field: str) -> None:
    status, document, _ = await gateway.post("/v1/items:upsert", body)
    assert status == 400
    assert document["error"]["details"][1]["field_violations"][0]["field"] == field


async def test_an_update_mask_changes_the_named_columns_only(text_gateway: Gateway) -> None:
    gateway = text_gateway
    await upsert(gateway, {"item_id": "kettle", "metadata": KETTLE})
    assert await upsert(gateway, {"item_id": "kettle", "metadata": {"in_stock": False}}, update_mask="in_stock") == [OK]
    item = await stored(gateway, "kettle")
    assert item is not None
    assert item["metadata"] == KETTLE | {"in_stock": False}
    first = await gateway.recommend(query_type="item_to_item", item_text="steel tea kettle", top_k=1)
    assert first.items[0].item_id == "kettle"
    # A masked text column gives the item a new text.
    await upsert(gateway, {"item_id": "kettle", "metadata": {"title": "mountain tent"}}, update_mask="title")
    moved = await gateway.recommend(query_type="item_to_item", item_text="mountain tent", top_k=1)
    assert moved.items[0].item_id == "kettle"
    assert await upsert(gateway, {"item_id": "nobody", "metadata": {"year": 1}}, update_mask="year") == [NOT_FOUND]


async def test_a_known_item_keeps_its_behaviour(text_gateway: Gateway) -> None:
    gateway = text_gateway
    await upsert(gateway, {"item_id": "d", "metadata": {"title": toy_world.TITLES[3], "year": 1999}})
    answer = await gateway.recommend(query_type="sequential", session_items=["a", "b", "c"], top_k=1)
    assert answer.items[0].item_id == "d"
    assert answer.items[0].metadata["year"] == 1999


async def test_without_a_text_engine_metadata_is_kept_and_text_is_refused(gateway: Gateway) -> None:
    failed = grpc.StatusCode.FAILED_PRECONDITION.value[0]
    codes = await upsert(gateway, {"item_id": "new", "metadata": KETTLE}, {"item_id": "other", "text": "a bell"})
    assert codes == [OK, failed]
    popular = await gateway.recommend(query_type="user_to_item", user_id="nobody", top_k=100)
    assert popular.items[-1].item_id == "new"
    assert "new" not in await gateway.ids(query_type="item_to_item", item_id="e", top_k=100)
    # It has neither text nor behaviour, hence no vector: by popularity, and nothing is unknown.
    answer = await gateway.recommend(query_type="sequential", session_items=["new"], top_k=3)
    assert (list(answer.unknown_item_ids), len(answer.items)) == ([], 3)
    assert [i.item_id for i in (await gateway.recommend(query_type="item_to_item", item_id="new", top_k=3)).items]


async def test_items_outlive_a_restart(toy_text_bundle: Bundle, tmp_path: Any) -> None:
    for arrangement in ("all in one", "all in one"):
        async with running(toy_text_bundle, arrangement, state_dir=tmp_path) as gateway:
            if await stored(gateway, "kettle") is None:
                await upsert(gateway, {"item_id": "kettle", "metadata": KETTLE})
                await delete(gateway, "e")
            else:
                assert await stored(gateway, "e") is None
                return
    raise AssertionError("the item was gone after the restart")
