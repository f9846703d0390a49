"""The catalogue while it changes: what callers see after upserts and deletions, after restarts, over other bundles."""

from __future__ import annotations

import asyncio
import math
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_shop import COLUMNS, DUNE, DUNE_METADATA, EARLY, IDS, LATE, SCHEMA, Caller, condition, item_of, running, shop
from google.rpc import code_pb2
from structlog.testing import capture_logs

from clozerec.v1 import retriever_pb2
from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import BadRequest, BundleMismatch, UnknownItem, UsageError
from clozerec_core.rpc_client import LocalStub
from clozerec_retriever import tail
from clozerec_retriever.assembly import build
from clozerec_retriever.journal import JOURNAL_FILE
from clozerec_retriever.live import LiveCatalogue
from clozerec_retriever.records import ItemRecord
from clozerec_retriever.retriever import Retriever, Selection
from clozerec_retriever.settings import RetrieverSettings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return shop(tmp_path_factory.mktemp("shop"))


async def test_a_new_item_is_found_by_every_way_to_look(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path) as caller:
        assert await caller.upsert(DUNE) == [0]
        assert await caller.near(0, 1) == ["cube", "dune", "brazil", "alien"]
        assert await caller.near(0, 1, where=condition("out", "EXISTS", bool_value=True)) == ["dune"]
        assert await caller.near(0, 1, where=condition("price", "GT", float_value=9)) == ["dune", "alien"]
        assert await caller.popular() == [("brazil", 1.0), ("cube", 0.5), ("alien", 0.25), ("dune", 0.0)]
        dune = await caller.item("dune")
        assert (dune.display_name, dune.day_zero, dune.text, dune.text_model) == ("Dune", True, "Dune. Sci-Fi", "mini")
        assert list(dune.content) == [0, 1]
        assert await caller.metadata("dune") == DUNE_METADATA
        similar = await caller.stub.Search(retriever_pb2.SearchRequest(item_id="dune", top_k=1), timeout=5)
        assert [(found.item_id, found.row) for found in similar.candidates] == [("cube", 2)]
        info = await caller.info()
        assert (info.num_items, info.num_day_zero_items, list(info.loaded_bundle_ids)) == (4, 1, ["tiny"])


async def test_an_added_item_that_no_vector_is_known_of_may_be_excluded(bundle: Bundle, tmp_path: Path) -> None:
    """A session may hold one: it is in no index to be left out of."""
    async with running(bundle, tmp_path) as caller:
        assert await caller.upsert({"item_id": "bare", "metadata": {"title": "Bare"}}) == [0]
        similar = retriever_pb2.SearchRequest(item_id="cube", top_k=2, exclude_item_ids=["bare"])
        found = await caller.stub.Search(similar, timeout=5)
        assert [each.item_id for each in found.candidates] == ["brazil", "alien"]
        popular = retriever_pb2.ListPopularRequest(top_k=5, exclude_item_ids=["bare", "cube"])
        found = await caller.stub.ListPopular(popular, timeout=5)
        assert [each.item_id for each in found.candidates] == ["brazil", "alien"]


async def test_the_same_upsert_twice_leaves_the_same_state(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path) as caller:
        await caller.upsert(DUNE)
        before = await caller.near(0, 1), await caller.item("dune"), await caller.info()
        await caller.upsert(DUNE, DUNE)
        assert (await caller.near(0, 1), await caller.item("dune"), await caller.info()) == before


async def test_an_upsert_replaces_metadata_and_a_mask_changes_only_what_it_names(
    bundle: Bundle, tmp_path: Path
) -> None:
    async with running(bundle, tmp_path) as caller:
        await caller.upsert(DUNE)
        assert await caller.upsert(
            {"item_id": "dune", "metadata": {"price": 1}},
            {"item_id": "alien", "metadata": {"price": 2, "stock": 7}},
            mask=["price"],
        ) == [0, 0]
        assert await caller.metadata("dune") == DUNE_METADATA | {"price": 1}
        assert await caller.metadata("alien") == {
            "title": "Alien", "price": 2, "stock": 1, "genres": ["Horror", "Sci-Fi"], "out": None
        }  # fmt: skip
        assert await caller.near(1, 0, where=condition("price", "LTE", float_value=2)) == ["alien", "dune"]
        assert list((await caller.item("dune")).content) == [0, 1]
        await caller.upsert({"item_id": "dune", "metadata": {}}, mask=["title"])
        assert (await caller.item("dune")).display_name == "dune"
        await caller.upsert(DUNE | {"metadata": {"stock": 5}})
        assert await caller.metadata("dune") == dict.fromkeys(SCHEMA) | {"stock": 5}


async def test_a_mask_never_makes_an_item_that_is_not_there(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path) as caller:
        await caller.delete("alien")
        change = {"metadata": {"price": 1}}
        codes = await caller.upsert(
            {"item_id": "nobody", **change},
            {"item_id": "alien", **change},
            {"item_id": "cube", **change},
            mask=["price"],
        )
        assert codes == [code_pb2.NOT_FOUND, code_pb2.NOT_FOUND, 0]
        assert "without update_mask" in caller.said[0]
        assert not (await caller.item("alien")).known
        assert (await caller.info()).num_items == 2


async def test_a_known_item_keeps_its_behaviour_and_moves_with_its_text(bundle: Bundle, tmp_path: Path) -> None:
    """Alien is [1, 0] with content [1, 0], so its behaviour is zero; Brazil's, [.8, .6] - [1, 1], is not."""
    async with running(bundle, tmp_path) as caller:
        await caller.upsert({"item_id": "alien", "metadata": {"title": "Alien"}, "content": [0, -3]})
        await caller.upsert({"item_id": "brazil", "metadata": {"title": "Brazil"}, "content": [1.2, 0.4]})
        response = await caller.stub.Search(
            retriever_pb2.SearchRequest(bundle_id="tiny", intent=[1.0, 0.0], top_k=3), timeout=5
        )
        assert [(found.item_id, round(found.score, 4)) for found in response.candidates] == [
            ("brazil", 1.0), ("alien", 0.0), ("cube", 0.0)
        ]  # fmt: skip
        await caller.upsert({"item_id": "alien", "metadata": {"title": "Alien"}, "content": [1, 0]})
        assert await caller.near(1, 0) == ["alien", "brazil", "cube"]


async def test_what_is_deleted_is_gone_from_every_answer_until_it_is_added_again(
    bundle: Bundle, tmp_path: Path
) -> None:
    async with running(bundle, tmp_path) as caller:
        await caller.upsert(DUNE)
        assert await caller.delete("cube", "dune", "nobody", "cube") == [0, 0, 0, 0]
        assert await caller.near(0, 1) == ["brazil", "alien"]
        assert [item_id for item_id, _ in await caller.popular()] == ["brazil", "alien"]
        assert not (await caller.item("cube")).known
        for item_id in ("cube", "dune"):
            with pytest.raises(UnknownItem):
                await caller.stub.Search(retriever_pb2.SearchRequest(item_id=item_id), timeout=5)
    async with running(bundle, tmp_path) as caller:
        assert await caller.near(0, 1) == ["brazil", "alien"]
        await caller.upsert({"item_id": "cube", "metadata": {"title": "Cube"}, "content": [0, 2]}, DUNE)
        assert await caller.near(0, 1) == ["cube", "dune", "brazil", "alien"]
        assert (await caller.info()).num_items == 4


async def test_a_restart_brings_back_every_change_in_the_same_order(bundle: Bundle, tmp_path: Path) -> None:
    twins = [DUNE | {"item_id": f"twin {number}"} for number in (3, 1, 2)]
    async with running(bundle, tmp_path) as caller:
        await caller.upsert(*twins)
        await caller.upsert(twins[0] | {"metadata": {"title": "Again"}})
        await caller.upsert({"item_id": "alien", "metadata": {"price": 3}}, mask=["price"])
        await caller.delete("brazil")
        before = await caller.near(0, 1), await caller.metadata("alien"), await caller.metadata("twin 3")
        assert before[0] == ["cube", "twin 3", "twin 1", "twin 2", "alien"]
    async with running(bundle, tmp_path) as caller:
        assert (await caller.near(0, 1), await caller.metadata("alien"), await caller.metadata("twin 3")) == before


async def test_rows_are_the_same_after_a_restart_whatever_was_deleted_on_the_way(
    bundle: Bundle, tmp_path: Path
) -> None:
    """A page goes on by score and row."""

    async def rows(caller: Caller) -> list[tuple[str, int]]:
        found = await caller.stub.Search(retriever_pb2.SearchRequest(item_id="cube", top_k=10), timeout=5)
        return [(each.item_id, each.row) for each in found.candidates]

    async with running(bundle, tmp_path) as caller:
        await caller.upsert(DUNE, DUNE | {"item_id": "short-lived"})
        await caller.delete("short-lived", "never there")
        await caller.upsert(DUNE | {"item_id": "eraserhead"})
        before = await rows(caller)
        assert before == [("dune", 3), ("eraserhead", 6), ("brazil", 1), ("alien", 0)]
    async with running(bundle, tmp_path) as caller:
        assert await rows(caller) == before


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (
            {"metadata": {"price": "cheap"}},
            'metadata.price: column "price" is a float: expected a number, not a string',
        ),
        ({"metadata": {"stock": 1.5}}, "not the fraction 1.5"),
        ({"metadata": {"stock": 2.0**60}}, "beyond ±2^53"),
        ({"metadata": {"stock": True}}, "expected a whole number, not true or false"),
        ({"metadata": {"price": float("nan")}}, "not nan"),
        (
            {"metadata": {"out": "yesterday"}},
            'expected an RFC 3339 time such as "2026-01-31T12:00:00Z", not "yesterday"',
        ),
        ({"metadata": {"genres": "Horror"}}, "expected a list of strings, not a string"),
        ({"metadata": {"genres": ["Horror", 1]}}, "expected a list of strings, not a list"),
        ({"metadata": {"titel": "x"}}, 'column "titel" is unknown (did you mean "title"?)'),
        ({"metadata": {"meta.title": "x"}}, 'write "title" without "meta."'),
        ({"content": [float("nan"), 1]}, "content: expected finite numbers"),
        ({"content": [float("inf"), 1]}, "content: expected finite numbers"),
        ({"content": [0, 0]}, "content: expected a vector with a direction"),
        ({"content": [1, 0], "text_model": ""}, "text_model: name the text model"),
        ({"content": [1, 0, 0]}, "content: expected 2 numbers"),
        ({"text": "x" * 8_193}, "text: 8,193 bytes; at most 8,192"),
        (
            {"metadata": {"title": "x" * 40_000, "genres": ["é" * 1_000] * 15}},
            "metadata: 70,068 bytes as JSON text; at most 65,536 are allowed",
        ),
        ({"item_id": ""}, "item_id: expected 1 to 256 bytes, not 0"),
        ({"item_id": "é" * 129}, "item_id: expected 1 to 256 bytes, not 258"),
    ],
)
async def test_a_bad_item_is_refused_alone(bundle: Bundle, tmp_path: Path, item: dict[str, Any], says: str) -> None:
    async with running(bundle, tmp_path) as caller:
        codes = await caller.upsert(DUNE, {"item_id": "bad"} | item, DUNE | {"item_id": "dune 2"})
        assert codes == [0, code_pb2.INVALID_ARGUMENT, 0]
        assert says in caller.said[1]
        assert (await caller.info()).num_items == 5


async def test_as_much_metadata_as_is_allowed_goes_in(bundle: Bundle, tmp_path: Path) -> None:
    title = "x" * (64 * 1_024 - len('{"title":""}'))
    async with running(bundle, tmp_path) as caller:
        assert await caller.upsert({"item_id": "large", "metadata": {"title": title}}) == [0]
        assert (await caller.metadata("large"))["title"] == title


async def test_a_bad_call_is_refused_whole(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path) as caller:
        for call in (
            caller.upsert(),
            caller.upsert(*[DUNE] * 1_001),
            caller.delete(),
            caller.delete(*["x"] * 1_001),
            caller.upsert(DUNE, mask=["title", "colour"]),
        ):
            with pytest.raises(BadRequest):
                await call
        assert await caller.delete("x" * 257, "alien") == [code_pb2.INVALID_ARGUMENT, 0]
        request = retriever_pb2.RetrieverServiceUpsertItemsRequest(bundle_id="other", items=[item_of(**DUNE)])
        with pytest.raises(BundleMismatch):
            await caller.stub.UpsertItems(request, timeout=5)
        assert (await caller.info()).num_items == 2


async def test_content_of_another_text_model_is_kept_and_waits_to_be_embedded(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path) as caller:
        foreign = {"content": [1, 2, 3], "text_model": "maxi", "text": "Dune"}
        assert await caller.upsert(DUNE | foreign, {"item_id": "cube", "metadata": {"title": "Cube"}} | foreign) == [
            0,
            0,
        ]
        info = await caller.info()
        assert (info.num_items_to_embed, list(info.items_to_embed)) == (2, ["dune", "cube"])
        assert await caller.near(0, 1) == ["cube", "brazil", "alien"]
        assert ("dune", 0.0) in await caller.popular()
        dune = await caller.item("dune")
        assert (list(dune.content), dune.text, dune.text_model) == ([], "Dune", "maxi")
    async with running(bundle, tmp_path) as caller:
        assert list((await caller.info()).items_to_embed) == ["dune", "cube"]
        await caller.upsert({"item_id": "dune", "content": [0, 1], "text": "Dune"}, mask=[])
        assert await caller.near(0, 1) == ["cube", "dune", "brazil", "alien"]
        assert await caller.metadata("dune") == DUNE_METADATA
        assert list((await caller.info()).items_to_embed) == ["cube"]


async def test_renewed_content_never_overrules_whoever_changed_the_item(bundle: Bundle, tmp_path: Path) -> None:
    foreign = {"content": [1, 2, 3], "text_model": "maxi", "text": "Dune"}
    fresh = {"content": [0, 1], "text": "Dune"}
    with_prices = {"item_id": "vivid", "metadata": {"price": 3.5, "stock": 2}} | foreign
    async with running(bundle, tmp_path) as caller:
        await caller.upsert(
            DUNE | foreign, *({"item_id": item_id} | foreign for item_id in ("gone", "cube")), with_prices
        )
        await caller.delete("gone")
        await caller.upsert({"item_id": "cube", "content": [1, 0], "text": "a cube"})
        codes = await caller.renew(*({"item_id": item_id} | fresh for item_id in ("dune", "gone", "cube", "alien")))
        assert codes == [0, *[code_pb2.NOT_FOUND] * 3]
        assert await caller.metadata("dune") == DUNE_METADATA
        assert await caller.near(0, 1) == ["dune", "brazil", "alien", "cube"]
        assert await caller.renew({"item_id": "dune", "content": [0, 1]}) == [code_pb2.INVALID_ARGUMENT]
    # Over a bundle where a column has another type: what was written before is kept as it was.
    other = shop(
        tmp_path / "other",
        schema=SCHEMA | {"price": ColumnType.STRING},
        columns=COLUMNS | {"price": ["9.5", "5", None]},
    )
    async with running(other, tmp_path) as caller:
        assert await caller.renew({"item_id": "vivid"} | fresh) == [0]
        assert (await caller.metadata("vivid"))["price"] is None
    async with running(bundle, tmp_path) as caller:
        assert (await caller.metadata("vivid"))["price"] == 3.5


async def test_a_newer_bundle_keeps_the_newer_of_both_and_every_deletion(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path / "state") as caller:
        await caller.upsert(DUNE, {"item_id": "alien", "metadata": {"title": "Changed"}, "content": [1, 0]})
        await caller.delete("brazil")
    for created_at, title in ((EARLY, "Changed"), (LATE, "Item 0")):
        other = shop(tmp_path / created_at[:4], "other", created_at)
        async with running(other, tmp_path / "state") as caller:
            assert (await caller.item("alien")).display_name == title
            assert await caller.near(0, 1) == ["cube", "dune", "alien"]


async def test_content_becomes_the_vector_of_whichever_bundle_is_searched(bundle: Bundle, tmp_path: Path) -> None:
    """The other bundle turns content by a quarter: [0, 1] to [-1, 0]; Alien's behaviour there is [1, 0] - [0, 1]."""
    quarter = np.array([[0, -1], [1, 0]], np.float32)
    other = shop(tmp_path, "other", projection_DC=quarter)
    servicer = build(bundle, RetrieverSettings(bundle=bundle.path, state_dir=tmp_path / "state"))
    caller = Caller(LocalStub(servicer))

    async def scores(bundle_id: str) -> dict[str, float]:
        request = retriever_pb2.SearchRequest(bundle_id=bundle_id, intent=[1.0, 0.0], top_k=10)
        found = (await caller.stub.Search(request, timeout=5)).candidates
        return {each.item_id: round(each.score, 4) for each in found if each.item_id in ("dune", "late", "alien")}

    await caller.upsert(DUNE, {"item_id": "alien", "metadata": {"title": "Alien"}, "content": [0, 1]})
    servicer.load(other)
    await caller.upsert(DUNE | {"item_id": "late", "content": [3, 4]})
    assert await scores("tiny") == {"dune": 0.0, "alien": 0.0, "late": 0.6}
    assert await scores("other") == {"dune": -1.0, "alien": 0.0, "late": -0.8}
    servicer.make_current("other")
    servicer.release("tiny")
    assert await scores("other") == {"dune": -1.0, "alien": 0.0, "late": -0.8}
    servicer.close()


def test_a_change_of_metadata_alone_touches_no_vector(bundle: Bundle) -> None:
    live = LiveCatalogue.open(bundle)
    dune = ItemRecord(0, "dune", False, {"stock": 1}, live.schema, np.array([0, 1], np.float32), "mini", "t", 0)
    alien = ItemRecord(1, "alien", False, {"stock": 1}, live.schema, None, "", "", 0)
    live.apply([dune])
    before = live.view
    live.apply([replace(dune, cells={"stock": 5}), replace(alien, cells={"stock": 6})])
    assert live.view.version > before.version
    assert [live.metadata(row, ["stock"]) for row in live.rows_of(["dune", "alien"])] == [{"stock": 5}, {"stock": 6}]
    assert live.view.tail is before.tail
    assert live.view.moved_B is before.moved_B


async def test_a_column_of_another_type_is_reported_and_left_out(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path / "state") as caller:
        await caller.upsert(DUNE, {"item_id": "alien", "metadata": {"title": "Changed", "price": 3}})
    columns = COLUMNS | {"price": ["9", "5", None]}
    other = shop(tmp_path, "other", schema=SCHEMA | {"price": ColumnType.STRING}, columns=columns)
    with capture_logs() as said:
        async with running(other, tmp_path / "state") as caller:
            assert await caller.metadata("dune") == DUNE_METADATA | {"price": None}
            assert (await caller.metadata("alien"))["price"] == "9"
            assert list((await caller.info()).retyped_columns) == ["price"]
    assert {"component": "live", "event": "columns_retyped", "columns": ["price"], "log_level": "warning"} in said


async def test_a_snapshot_restores(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path / "state") as caller:
        await caller.upsert(DUNE)
        snapshot = await caller.stub.CreateSnapshot(retriever_pb2.CreateSnapshotRequest(), timeout=5)
        await caller.delete("dune", "alien")
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.move(snapshot.path, restored / JOURNAL_FILE)
    async with running(bundle, restored) as caller:
        assert await caller.near(0, 1) == ["cube", "dune", "brazil", "alien"]
        assert list((tmp_path / "state" / "snapshots").iterdir()) == []


async def test_a_snapshot_made_beside_changes_holds_what_was_acknowledged_before_it_and_whole_batches(
    bundle: Bundle, tmp_path: Path
) -> None:
    size = 20
    acknowledged = 0
    enough = asyncio.Event()

    async def change(caller: Caller) -> None:
        nonlocal acknowledged
        while not enough.is_set():
            batch = [DUNE | {"item_id": f"{acknowledged}-{place}"} for place in range(size)]
            assert await caller.upsert(*batch) == [0] * size
            acknowledged += 1

    async with running(bundle, tmp_path / "state") as caller:
        changing = asyncio.create_task(change(caller))
        bounds = []
        for _ in range(3):
            before = acknowledged
            snapshot = await caller.stub.CreateSnapshot(retriever_pb2.CreateSnapshotRequest(), timeout=20)
            bounds.append((Path(snapshot.path), before, acknowledged + 1))
        enough.set()
        await changing
    assert acknowledged > 0
    for number, (path, least, most) in enumerate(bounds):
        restored = tmp_path / f"restored {number}"
        restored.mkdir()
        shutil.move(path, restored / JOURNAL_FILE)
        async with running(bundle, restored) as caller:
            num_batches, rest = divmod((await caller.info()).num_items - len(IDS), size)
            assert rest == 0, "a batch is there in part"
            assert least <= num_batches <= most
            for batch in range(num_batches):
                assert (await caller.item(f"{batch}-{size - 1}")).known


async def test_two_retrievers_never_share_a_journal(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path):
        with pytest.raises(UsageError, match="another retriever uses state directory"):
            build(bundle, RetrieverSettings(bundle=bundle.path, state_dir=tmp_path))


async def test_changes_sent_at_once_are_all_there(bundle: Bundle, tmp_path: Path) -> None:
    async with running(bundle, tmp_path) as caller:
        batches = [[DUNE | {"item_id": f"{batch}-{place}"} for place in range(50)] for batch in range(19)]
        codes = await asyncio.gather(*(caller.upsert(*batch) for batch in batches))
        assert codes == [[0] * 50] * 19
        found = await caller.near(0, 1, top_k=1_000)
        assert set(found) == {item["item_id"] for batch in batches for item in batch} | set(IDS)


async def test_folding_changes_nothing_that_callers_see(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every change its own segment, merged again and again on the way."""
    from clozerec_retriever import live

    answers = []
    for most, least in ((1_000, 1_000), (1, 4), (1, 0)):
        monkeypatch.setattr(live, "MAX_SEGMENTS", most)
        monkeypatch.setattr(live, "FOLD_LEAST", least)
        async with running(bundle, tmp_path / f"{most}-{least}") as caller:
            for number in range(12):
                changed = {"title": f"Title {number}", "stock": number}
                await caller.upsert(DUNE | {"item_id": f"item {number % 5}", "metadata": changed})
                await caller.upsert({"item_id": "alien", "metadata": {"stock": number}}, mask=["stock"])
            await caller.delete("item 2")
            asked: list[Callable[[], Any]] = [
                lambda: caller.near(0, 1, where=condition("stock", "GTE", integer_value=9)),
                lambda: caller.near(1, 0, where=condition("title", "EQ", string_value="Alien")),
                lambda: caller.metadata("item 3"),
                caller.popular,
            ]
            answers.append([await ask() for ask in asked])
    assert answers[0][0] == ["item 0", "item 1", "item 4", "alien"]
    assert answers[0] == answers[1] == answers[2]


def test_items_that_change_thousands_of_times_take_one_place_each_and_are_always_found(tmp_path: Path) -> None:
    """Swept beside the changes, again and again; after each change the truth is what was just said."""
    retriever = Retriever.open(shop(tmp_path, schema={"stock": ColumnType.INTEGER}))
    live = retriever.live
    num_items, num_changes = 20, 2_000
    said: dict[str, float] = {}
    """Item to the angle of its vector."""
    changed, done = threading.Event(), False
    lengths: list[int] = []

    def sweep() -> None:
        while not done:
            changed.wait()
            changed.clear()
            live.fold()

    def found(angle: float) -> dict[str, float]:
        selection = Selection(top_k=num_items, exclude_item_ids=IDS)
        ranking = retriever.search_by_vector([math.cos(angle), math.sin(angle)], selection).ranking
        return {live.item_id(row): ranking.scores[place] for place, row in enumerate(ranking.rows.tolist())}

    sweeping = threading.Thread(target=sweep)
    sweeping.start()
    try:
        for number, angle in enumerate(np.random.default_rng(0).uniform(0, 2 * np.pi, num_changes).tolist()):
            item_id = f"item {number % num_items}"
            content = np.array([math.cos(angle), math.sin(angle)], np.float32)
            live.apply([ItemRecord(number, item_id, False, {}, live.schema, content, "mini", "t", 0)])
            changed.set()
            lengths.append(len(live.view.tail.rows_T))
            said[item_id] = angle
            scores = found(angle)
            assert scores == pytest.approx({known: math.cos(angle - of) for known, of in said.items()}, abs=1e-4)
            assert live.moved_vector(live.rows_of([item_id])[0]) == pytest.approx(content, abs=1e-6)
    finally:
        done = True
        changed.set()
        sweeping.join()
    assert any(after < before for before, after in pairwise(lengths)), "no sweep while it changed"
    live.fold()
    assert len(live.view.tail.rows_T) <= num_items + tail.DEAD_LEAST
    assert found(angle) == scores
