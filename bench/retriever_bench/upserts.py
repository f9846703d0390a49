"""Durable upserts, alone and while searches go on; and whether the next search finds them."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.predicate import EVERYTHING, Compare, Operator
from clozerec_retriever.journal import Journal
from clozerec_retriever.records import Put
from clozerec_retriever.retriever import Retriever, Selection
from clozerec_retriever.shelf import Shelf
from clozerec_retriever.writer import JournalWriter
from retriever_bench.world import CONTENT_DIM, SCHEMA, World, verdict

BATCH, RATE, SECONDS, TRIES = 500, 5_000, 10.0, 1_000
WITH_TEXT = 10
"""One item in so many comes with a text of its own, so that its vector changes; of the others price and stock do."""


def under_search(world: World, bundle: Bundle, cache: Path) -> None:
    retriever = Retriever.open(bundle)
    retriever.warm_up()
    shelf = Shelf(retriever)
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(Path(directory))
        writer = JournalWriter(journal, shelf.show, shelf.tidy)

        def write(puts: list[Put]) -> None:
            writer.submit(puts, SCHEMA, retriever.live.is_in_bundle).result()

        batches = [
            _batch(world, number, retriever.live.text_model) for number in range(int(SECONDS * RATE / BATCH) + 20)
        ]
        _alone(batches[:20], write)
        _searching(world, retriever, batches[20:], write)
        _found_at_once(retriever, write)
        writer.close()
        journal.close()


def _batch(world: World, number: int, text_model: str) -> list[Put]:
    """Changes of items of the bundle, whole; fresh prices each time."""
    random = np.random.default_rng(number)
    puts = []
    for row in random.choice(len(world), BATCH, replace=False).tolist():
        cells = {"price": random.random(), "brand": f"brand {world.brand[row]}", "in_stock": True}
        cells |= {"random": ("b5000",), "corner": ()}
        text = row % WITH_TEXT == 0
        content = random.normal(size=CONTENT_DIM if text else 0).astype(np.float32)
        puts.append(Put(f"item_{row}", cells, content=content, text_model=text_model if text else ""))
    return puts


def _alone(batches: list[list[Put]], write: Callable[[list[Put]], None]) -> None:
    started = time.perf_counter()
    for batch in batches:
        write(batch)
    rate = len(batches) * BATCH / (time.perf_counter() - started)
    print(f"batches of {BATCH}, one after the other: {rate:,.0f} a second (5,000 at least)  {verdict(rate >= RATE)}")


def _searching(
    world: World, retriever: Retriever, batches: list[list[Put]], write: Callable[[list[Put]], None]
) -> None:
    until = time.perf_counter() + 2
    quiet = _times_ms(world, retriever, lambda: time.perf_counter() < until)
    began = time.perf_counter()
    took = [0.0]

    def write_all() -> None:
        for number, batch in enumerate(batches):
            write(batch)
            time.sleep(max(0.0, began + (number + 1) * BATCH / RATE - time.perf_counter()))
        took[0] = time.perf_counter() - began

    thread = threading.Thread(target=write_all)
    thread.start()
    times = _times_ms(world, retriever, thread.is_alive)
    thread.join()
    rate = len(batches) * BATCH / took[0]
    p99 = float(np.percentile(times, 99))
    print(
        f"search beside {rate:,.0f} upserts a second: median {np.median(times):.3f} ms, p99 {p99:.2f} ms (under 5 at "
        f"100,000); without: {np.median(quiet):.3f}, {np.percentile(quiet, 99):.2f}  "
        f"{verdict(p99 < 5 and rate > 0.97 * RATE)}"
    )


def _times_ms(world: World, retriever: Retriever, goes_on: Callable[[], bool]) -> list[float]:
    """Of searches without a filter and with one by turns, a millisecond of rest after each."""
    brand = Compare("brand", Operator.EQ, ("brand 3",))
    times: list[float] = []
    while goes_on():
        query, where = world.queries[len(times) % len(world.queries)], brand if len(times) % 2 else EVERYTHING
        started = time.perf_counter()
        retriever.search_by_vector(query, Selection(10, where))
        times.append((time.perf_counter() - started) * 1e3)
        time.sleep(0.001)
    return times


def _found_at_once(retriever: Retriever, write: Callable[[list[Put]], None]) -> None:
    """A search by the new item's own vector has it at the top as soon as it is acknowledged."""
    found = 0
    random = np.random.default_rng(0)
    for number in range(TRIES):
        content = random.normal(size=CONTENT_DIM).astype(np.float32)
        item_id = f"fresh {number}"
        write([Put(item_id, dict.fromkeys(SCHEMA), content=content, text_model=retriever.live.text_model)])
        intent = np.concatenate((content, np.zeros(retriever.manifest.model.dim - CONTENT_DIM)))
        ranking = retriever.search_by_vector(intent, Selection(1)).ranking
        found += len(ranking) == 1 and retriever.live.item_id(int(ranking.rows[0])) == item_id
    print(f"an upsert is found by the next search in {found:,} of {TRIES:,} tries  {verdict(found == TRIES)}")
