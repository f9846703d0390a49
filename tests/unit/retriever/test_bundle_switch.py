"""Following the bundle link under a running retriever: switching, rolling back, refusing, releasing, removing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import make_catalogue, random_vectors, write_bundle

from clozerec.v1 import retriever_pb2
from clozerec_core.bundle import VECTORS, Bundle, point_current
from clozerec_core.bundle_watch import BundleWatch, remove_old_bundles
from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import BundleMismatch
from clozerec_core.rpc_client import LocalStub
from clozerec_retriever.assembly import build
from clozerec_retriever.servicer import RetrieverServicer
from clozerec_retriever.settings import RetrieverSettings

NUM_ITEMS, DIM = 50, 4
SCHEMA = {"year": ColumnType.INTEGER}


class Clock:
    """A time that tests move."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Watched:
    """A retriever that follows `current` in a directory of bundles."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        first = self.publish("first", seed=1)
        link = point_current(first)
        self.settings = RetrieverSettings(bundle=link, state_dir=directory / "state", **settings)
        self.servicer: RetrieverServicer = build(first, self.settings)
        self.stub: Any = LocalStub(self.servicer)
        self.clock = Clock()
        self.watch = BundleWatch(self.servicer, first, self.settings, "retriever", self.clock)

    def publish(self, bundle_id: str, seed: int) -> Bundle:
        """A bundle with vectors of its own; the higher the seed, the newer it is."""
        catalogue = make_catalogue({"year": range(NUM_ITEMS)}, SCHEMA)
        vectors = random_vectors(NUM_ITEMS, DIM, seed)
        created_at = f"2001-01-{seed:02}T00:00:00Z"
        return write_bundle(
            self.directory, catalogue, vectors, [1] * NUM_ITEMS, bundle_id=bundle_id, created_at=created_at
        )

    async def look(self, after_s: float = 0) -> None:
        self.clock.now_s += after_s
        await self.watch.look()

    async def current(self) -> str:
        """The bundle that calls without a name are answered from."""
        return (await self.stub.ListPopular(retriever_pb2.ListPopularRequest(), timeout=5)).bundle_id

    async def best(self, bundle_id: str, intent: list[float]) -> tuple[int, float]:
        """Row and score of the nearest of the bundle's own items."""
        request = retriever_pb2.SearchRequest(bundle_id=bundle_id, intent=intent, top_k=1)
        response = await self.stub.Search(request, timeout=5)
        assert response.bundle_id == bundle_id
        (found,) = response.candidates
        return found.row, found.score


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path, bundle_linger_s=60)
    yield watched
    watched.servicer.close()


def truth(seed: int, intent: list[float]) -> tuple[int, float]:
    scores = random_vectors(NUM_ITEMS, DIM, seed) @ np.array(intent, np.float32)
    return int(np.argmax(scores)), pytest.approx(float(scores.max()), abs=1e-4)


EAST = [1.0, 0.0, 0.0, 0.0]


async def test_a_new_bundle_takes_over_and_the_old_one_answers_for_a_while(watched: Watched) -> None:
    await watched.look()
    assert await watched.current() == "first"
    with pytest.raises(BundleMismatch):
        await watched.best("second", EAST)
    point_current(watched.publish("second", seed=2))
    await watched.look()
    assert await watched.current() == "second"
    assert await watched.best("first", EAST) == truth(1, EAST)
    assert await watched.best("second", EAST) == truth(2, EAST)
    await watched.look(after_s=59)
    assert await watched.best("first", EAST) == truth(1, EAST)
    await watched.look(after_s=2)
    with pytest.raises(BundleMismatch, match='"first" is not loaded; the current one is "second"'):
        await watched.best("first", EAST)


async def test_pointing_the_link_back_is_the_rollback(watched: Watched) -> None:
    first = watched.directory / "first"
    point_current(watched.publish("second", seed=2))
    await watched.look()
    for after_s in (1, 100):  # once while the first is still loaded, once after it was released
        await watched.look(after_s)
        point_current(Bundle.open(first))
        await watched.look()
        assert await watched.current() == "first"
        assert await watched.best("first", EAST) == truth(1, EAST)
        assert await watched.best("second", EAST) == truth(2, EAST)
        point_current(Bundle.open(watched.directory / "second"))
        await watched.look()
        assert await watched.current() == "second"


async def test_a_damaged_bundle_is_refused_and_the_last_good_one_keeps_serving(watched: Watched) -> None:
    bad = watched.publish("bad", seed=3)
    raw = bytearray(bad.file(VECTORS).read_bytes())
    raw[-1] ^= 1
    bad.file(VECTORS).write_bytes(raw)
    point_current(bad)
    await watched.look()
    await watched.look()
    assert await watched.current() == "first"
    point_current(watched.publish("good", seed=4))
    await watched.look()
    assert await watched.current() == "good"


async def test_a_link_to_nothing_changes_nothing(watched: Watched) -> None:
    (watched.directory / "current").unlink()
    await watched.look()
    assert await watched.current() == "first"


async def test_what_is_released_is_let_go(watched: Watched) -> None:
    old = weakref.ref(watched.servicer._shelf.current)
    assert old() is not None
    point_current(watched.publish("second", seed=2))
    await watched.look()
    assert old() is not None
    await watched.look(after_s=61)
    assert old() is None


async def test_searches_and_changes_go_on_through_a_switch(watched: Watched) -> None:
    """Answers always come whole from the bundle that was named; whatever was acknowledged is in both."""
    done = asyncio.Event()
    seed_of = {"first": 1, "second": 2}
    added: list[str] = []

    async def search() -> int:
        count = 0
        while not done.is_set():
            bundle_id = await watched.current()
            assert await watched.best(bundle_id, EAST) == truth(seed_of[bundle_id], EAST)
            count += 1
            await asyncio.sleep(0)  # a quick search within the process is answered without giving up the turn
        return count

    async def change() -> None:
        while not done.is_set():
            item_id = f"new {len(added)}"
            item = retriever_pb2.CatalogueItem(item_id=item_id)
            item.metadata.update({"year": 1})
            request = retriever_pb2.RetrieverServiceUpsertItemsRequest(items=[item])
            assert (await watched.stub.UpsertItems(request, timeout=5)).statuses[0].code == 0
            added.append(item_id)

    tasks = [asyncio.create_task(search()), asyncio.create_task(search()), asyncio.create_task(change())]
    point_current(watched.publish("second", seed=2))
    await watched.look()
    done.set()
    searched, more, _ = await asyncio.gather(*tasks)
    assert min(searched, more, len(added)) > 0
    for bundle_id in seed_of:
        request = retriever_pb2.RetrieverServiceGetItemsRequest(bundle_id=bundle_id, item_ids=added[:1_000])
        assert all(item.known for item in (await watched.stub.GetItems(request, timeout=5)).items)


async def test_the_running_watch_finds_the_new_bundle_itself(tmp_path: Path) -> None:
    watched = Watched(tmp_path, bundle_poll_s=0.01)
    running = asyncio.create_task(watched.watch.run())
    point_current(watched.publish("second", seed=2))
    async with asyncio.timeout(20):
        while await watched.current() != "second":  # noqa: ASYNC110  # nobody tells us of it; that is what is tested
            await asyncio.sleep(0)
    running.cancel()
    watched.servicer.close()


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_old_bundles_are_removed_but_never_the_live_the_linked_or_what_is_no_bundle(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for seed in range(2, 7):
        watched.publish(f"b{seed}", seed)
    (tmp_path / "notes").mkdir()
    (tmp_path / ".writing-x").mkdir()
    remove_old_bundles(tmp_path, 2, in_use={"b3"})
    assert names_in(tmp_path) == {"first", "current", "b3", "b5", "b6", "notes", ".writing-x", "state"}
    watched.servicer.close()


async def test_retention_takes_effect_at_a_switch(tmp_path: Path) -> None:
    watched = Watched(tmp_path, bundle_retention=1, bundle_linger_s=0)
    for seed in range(2, 5):
        point_current(watched.publish(f"b{seed}", seed))
        await watched.look()
    assert names_in(tmp_path) == {"b3", "b4", "current", "state"}  # b3 still lingers
    watched.servicer.close()


async def test_switching_again_and_again_keeps_the_memory_of_two_bundles_at_most(tmp_path: Path) -> None:
    """Of 20,000 items by 128 dims: 10 MB of vectors, 0.2 MB more in masks, ids and columns."""
    num_items, dim = 20_000, 128

    def publish(number: int) -> Bundle:
        catalogue = make_catalogue({"year": range(num_items)}, SCHEMA)
        vectors = random_vectors(num_items, dim, number)
        return write_bundle(tmp_path, catalogue, vectors, [1] * num_items, bundle_id=f"b{number}")

    def resident_mb() -> float:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1_024

    bundles = [publish(number) for number in range(8)]
    servicer = build(bundles[0], RetrieverSettings(bundle=bundles[0].path, state_dir=tmp_path / "state"))
    sizes = []
    for before, bundle in pairwise(bundles):
        servicer.load(bundle)
        servicer.make_current(bundle.bundle_id)
        servicer.release(before.bundle_id)
        gc.collect()
        sizes.append(resident_mb())
    servicer.close()
    assert sizes[-1] - sizes[2] < 20, sizes
