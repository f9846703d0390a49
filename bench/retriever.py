"""Is filtered search exact, and faster than Qdrant's engine in this process? What do changes, start and memory cost?

    python bench/retriever.py [--items 100000] [--queries 200] [--kills 0]

One thread, one run, the same vectors and filters for all: ours (Retriever.search_by_vector, cached filters), raw FAISS
(flat index with a bitmap, exact), and qdrant-edge-py, which the extra `bench` brings (skipped without it). Vectors are
clustered; filters pass random rows, or rows in one corner of the space. What was built is kept in build/.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bundle_factory import make_catalogue, make_manifest, random_vectors, write_bundle, write_files
from kill_loop import SCHEMA as KILL_SCHEMA
from kill_loop import kill_once

from clozerec_core.bundle import Bundle, publish, writing_directory
from clozerec_core.catalogue import Catalogue, ColumnType
from clozerec_core.hybrid import Floats, normalise
from clozerec_core.predicate import EVERYTHING, AllOf, Compare, Negation, Operator, Predicate
from clozerec_retriever.journal import Journal, Put
from clozerec_retriever.retriever import Retriever, Selection
from clozerec_retriever.shelf import Shelf
from clozerec_retriever.writer import JournalWriter
from clozerec_trainer.export import write_index

BUILD = Path(__file__).parent.parent / "build"
DIM, TOP_K, NUM_CLUSTERS, WARM = 64, 10, 1_000, 20
BANDS = (5_000, 1_000, 100, 10, 1)
"""Of 10,000: pass rates 50, 10, 1, 0.1 and 0.01%."""
SCHEMA = {
    "random": ColumnType.STRING_LIST,
    "corner": ColumnType.STRING_LIST,
    "price": ColumnType.FLOAT,
    "brand": ColumnType.STRING,
    "in_stock": ColumnType.BOOL,
}


class World:
    """Vectors, queries near them, and who is in which band."""

    def __init__(self, num_items: int) -> None:
        random = np.random.default_rng(0)
        centres = normalise(random.normal(size=(NUM_CLUSTERS, DIM)).astype(np.float32))
        self.vectors = self._around(centres, num_items, random)
        self.queries = self._around(centres, 1_000, random)
        self.place = {"random": random.integers(0, 10_000, num_items)}
        rank = np.empty(num_items, np.int64)
        rank[np.argsort(-(self.vectors @ centres[0]))] = np.arange(num_items)
        self.place["corner"] = rank * 10_000 // num_items
        self.price = random.random(num_items) * 100
        self.brand = random.integers(0, 50, num_items)
        self.in_stock = random.random(num_items) < 0.8

    @staticmethod
    def _around(centres: Floats, num: int, random: np.random.Generator) -> Floats:
        noise = random.normal(size=(num, DIM)).astype(np.float32)
        return normalise(centres[random.integers(0, len(centres), num)] + np.float32(0.1) * noise)

    def bands(self, column: str) -> list[list[str]]:
        names = [[f"b{band}" for band in BANDS if place < band] for place in range(10_000)]
        return [names[place] for place in self.place[column]]


def bundle_of(world: World) -> Bundle:
    """Written once."""
    num_items = len(world.vectors)
    directory = BUILD / f"bench-retriever-{num_items}"
    if (directory / "bench").is_dir():
        return Bundle.open(directory / "bench")
    started = time.monotonic()
    columns = [
        pl.Series("random", world.bands("random")),
        pl.Series("corner", world.bands("corner")),
        pl.Series("price", world.price),
        pl.Series("brand", [f"brand {brand}" for brand in world.brand]),
        pl.Series("in_stock", world.in_stock),
    ]
    ids = [f"item_{row}" for row in range(num_items)]
    with writing_directory(directory) as staging:
        write_files(staging, Catalogue(ids, ids, pl.DataFrame(columns), SCHEMA), world.vectors, [1] * num_items)
        write_index(world.vectors, staging)
        publish(staging, directory, make_manifest(SCHEMA, num_items, DIM, "bench"))
    print(f"built {directory} in {time.monotonic() - started:.0f} s")
    return Bundle.open(directory / "bench")


def edge_of(world: World) -> Any:
    """Qdrant's engine over the same; None where it is not installed."""
    if importlib.util.find_spec("qdrant_edge") is None:
        print("qdrant-edge-py is not installed (pip install '.[bench]'): compared with FAISS alone")
        return None
    import qdrant_edge as edge

    path = BUILD / f"bench-edge-{len(world.vectors)}"
    if (path / "done").exists():
        return edge.EdgeShard.load(str(path / "shard"))
    started = time.monotonic()
    shutil.rmtree(path, ignore_errors=True)
    (path / "shard").mkdir(parents=True)
    config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Dot))
    shard = edge.EdgeShard.create(str(path / "shard"), config)
    bands = {name: world.bands(name) for name in world.place}
    for name in bands:
        shard.update(edge.UpdateOperation.create_field_index(name, edge.PayloadSchemaType.Keyword))
    for start in range(0, len(world.vectors), 10_000):
        points = [
            edge.Point(row, world.vectors[row].tolist(), {name: bands[name][row] for name in bands})
            for row in range(start, min(start + 10_000, len(world.vectors)))
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    while shard.optimize():
        pass
    shard.flush()
    (path / "done").touch()
    print(f"built {path} in {time.monotonic() - started:.0f} s")
    return shard


Search = Callable[[Floats], list[int]]


def measured(search: Search, queries: Floats, truth: list[set[int]]) -> tuple[float, float, float]:
    """Median and 99th percentile in milliseconds, and recall@10."""
    times, hits, total = [], 0, 0
    for query in queries[:WARM]:
        search(query)
    for query, true in zip(queries, truth, strict=True):
        started = time.perf_counter()
        rows = search(query)
        times.append((time.perf_counter() - started) * 1e3)
        hits, total = hits + len(true.intersection(rows)), total + len(true)
    return float(np.median(times)), float(np.percentile(times, 99)), hits / total


def compare_search(world: World, retriever: Retriever, shard: Any, num_queries: int) -> None:
    flat = faiss.IndexFlatIP(DIM)
    flat.add(world.vectors)
    queries = world.queries[:num_queries]
    print(
        "        filter   passing | ours: ms, p99, recall | flat FAISS: ms, p99 | qdrant-edge: ms, p99, recall | ratio"
    )
    cases: list[tuple[str, str, int]] = [("all", "", 10_000)]
    cases += [(f"{column} {band / 100:g}%", column, band) for column in world.place for band in BANDS]
    for name, column, band in cases:
        mask = world.place[column] < band if column else np.ones(len(world.vectors), np.bool_)
        where: Predicate = Compare(column, Operator.EQ, (f"b{band}",)) if column else EVERYTHING
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        parameters = faiss.SearchParameters(sel=selector) if column else None

        def ours(query: Floats, where: Predicate = where) -> list[int]:
            return retriever.search_by_vector(query, Selection(TOP_K, where)).ranking.rows.tolist()

        def raw(query: Floats, parameters: Any = parameters) -> list[int]:
            return flat.search(query.reshape(1, -1), TOP_K, params=parameters)[1][0].tolist()

        truth = [{row for row in raw(query) if row >= 0} for query in queries]
        line = f"{name:>14} {np.count_nonzero(mask):>9,} |"
        our = measured(ours, queries, truth)
        line += f" {our[0]:7.3f} {our[1]:7.3f} {our[2]:.4f} |"
        of_faiss = measured(raw, queries, truth)
        line += f" {of_faiss[0]:7.3f} {of_faiss[1]:7.3f} |"
        if shard is not None:
            theirs = measured(edge_search(shard, column, band), queries, truth)
            line += f" {theirs[0]:7.3f} {theirs[1]:7.3f} {theirs[2]:.4f} | {our[0] / theirs[0]:.2f}"
        print(line, flush=True)


def edge_search(shard: Any, column: str, band: int) -> Search:
    import qdrant_edge as edge

    where = None
    if column:
        where = edge.Filter(must=[edge.FieldCondition(key=column, match=edge.MatchValue(f"b{band}"))])

    def search(query: Floats) -> list[int]:
        request = edge.QueryRequest(limit=TOP_K, query=edge.Query.Nearest(query.tolist()), filter=where)
        return [point.id for point in shard.query(request)]

    return search


def compare_filters(world: World, retriever: Retriever) -> None:
    """Three conditions, one a range, one negated; and one condition alone."""
    single: Predicate = Compare("brand", Operator.EQ, ("brand 7",))

    def compound(price: float) -> Predicate:
        stock = Negation(Compare("in_stock", Operator.EQ, (False,)))
        brands = Compare("brand", Operator.IN, ("brand 7", "brand 8"))
        return AllOf((brands, Compare("price", Operator.LT, (price,)), stock))

    def median_ms(wheres: list[Predicate]) -> float:
        times = []
        for query, where in zip(world.queries, wheres, strict=False):
            started = time.perf_counter()
            retriever.search_by_vector(query, Selection(TOP_K, where))
            times.append((time.perf_counter() - started) * 1e3)
        return float(np.median(times[1:]))

    alone, cached = median_ms([single] * 100), median_ms([compound(60.0)] * 100)
    fresh = median_ms([compound(60.0 + step / 1e3) for step in range(1, 101)])
    print(f"one condition {alone:.3f} ms; three, cached {cached:.3f} ms ({cached / alone:.2f}x, at most 1.5)")
    print(f"three conditions, never seen before: {fresh:.2f} ms (at most 5)")


def change_while_searching(world: World, retriever: Retriever, seconds: float = 10) -> None:
    """5,000 upserts a second in batches of 500 of items with new metadata, and searches beside them."""
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(Path(directory))
        shelf = Shelf(retriever)
        writer = JournalWriter(journal, shelf.show, shelf.tidy)
        nothing = np.empty(0, np.float32)
        is_in_bundle = retriever.live.is_in_bundle

        def batch(number: int) -> list[Put]:
            cells = {"price": float(number), "brand": "brand 7", "in_stock": True, "random": ("b5000",), "corner": ()}
            first = number * 500
            return [Put(f"item_{(first + i) % len(world.vectors)}", cells, content=nothing) for i in range(500)]

        started = time.perf_counter()
        for number in range(20):
            writer.submit(batch(number), SCHEMA, is_in_bundle).result()
        print(f"upserts, one batch of 500 after the other: {10_000 / (time.perf_counter() - started):,.0f} a second")
        stop = threading.Event()
        done = [0]

        def write() -> None:
            begun = time.perf_counter()
            while not stop.is_set():
                writer.submit(batch(20 + done[0]), SCHEMA, is_in_bundle).result()
                done[0] += 1
                stop.wait(max(0.0, begun + done[0] * 0.1 - time.perf_counter()))

        thread = threading.Thread(target=write)
        thread.start()
        times, number = [], 0
        until = time.perf_counter() + seconds
        where = Compare("brand", Operator.EQ, ("brand 3",))
        while time.perf_counter() < until:
            began = time.perf_counter()
            retriever.search_by_vector(
                world.queries[number % 1_000], Selection(TOP_K, where if number % 2 else EVERYTHING)
            )
            times.append((time.perf_counter() - began) * 1e3)
            number += 1
            time.sleep(0.001)
        stop.set()
        thread.join()
        print(
            f"search during {done[0] * 500 / seconds:,.0f} upserts a second: median {np.median(times):.3f} ms, "
            f"p99 {np.percentile(times, 99):.2f} ms (at most 5 at 100,000)"
        )
        found = 0
        for number in range(1_000):
            put = Put(f"fresh {number}", dict.fromkeys(SCHEMA) | {"brand": f"fresh {number}"}, content=nothing)
            writer.submit([put], SCHEMA, is_in_bundle).result()
            answer = retriever.popular(Selection(1, Compare("brand", Operator.EQ, (f"fresh {number}",))))
            found += len(answer.ranking)
        print(f"an upsert is found by the next search in {found:,} of 1,000 tries")
        writer.close()
        journal.close()


START = """
import sys, time
started = time.monotonic()
from pathlib import Path
from clozerec_core.bundle import Bundle
from clozerec_retriever.retriever import Retriever
imported = time.monotonic()
retriever = Retriever.open(Bundle.open(Path(sys.argv[1])))
retriever.warm_up()
ready = time.monotonic()
memory = dict(line.split(":") for line in open("/proc/self/status") if line.startswith(("VmRSS", "RssAnon")))
resident, anonymous = (float(memory[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
model = retriever.manifest.model
raw = model.num_items * model.dim * 4 / 2**20
print(f"ready in {ready - imported:.1f} s (at most 5) after {imported - started:.1f} s of imports")
print(f"resident {resident:.0f} MiB, {anonymous:.0f} anonymous; {resident / raw:.2f}x the raw vectors (at most 3)")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kills", type=int, default=0, help="rounds of kill -9")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    world = World(arguments.items)
    bundle = bundle_of(world)
    subprocess.run([sys.executable, "-c", START, str(bundle.path)], check=True)
    retriever = Retriever.open(bundle)
    compare_search(world, retriever, edge_of(world), arguments.queries)
    compare_filters(world, retriever)
    change_while_searching(world, retriever)
    if arguments.kills:
        with tempfile.TemporaryDirectory() as directory:
            catalogue = make_catalogue({"number": [0, 0], "again": [0, 0]}, KILL_SCHEMA)
            small = write_bundle(Path(directory), catalogue, random_vectors(2, 4), [1, 1])
            must_be: dict[str, int] = {}
            acknowledged = sum(
                kill_once(small, Path(directory) / "state", 1 + n, must_be) for n in range(arguments.kills)
            )
            print(f"{arguments.kills} times kill -9: nothing of {acknowledged:,} acknowledged batches lost")


if __name__ == "__main__":
    main()
