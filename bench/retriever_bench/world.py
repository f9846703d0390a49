"""The items, the queries and the filters that all sections measure with."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from bundle_factory import make_manifest, text_info, write_files
from numpy.typing import NDArray

from clozerec_core.bundle import TEXT_FILES, Bundle, publish, writing_directory
from clozerec_core.catalogue import Catalogue, ColumnType
from clozerec_core.hybrid import Floats, normalise
from clozerec_core.predicate import EVERYTHING, Compare, Operator, Predicate
from clozerec_trainer.export import write_index

DIM, CONTENT_DIM, NUM_CLUSTERS = 64, 8, 1_000
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
    """Vectors, queries near them, who is in which band; and the clock that searches are measured by."""

    clock: Callable[[], float] = time.perf_counter

    def __init__(self, num_items: int, num_queries: int) -> None:
        random = np.random.default_rng(0)
        centres = normalise(random.normal(size=(NUM_CLUSTERS, DIM)).astype(np.float32))
        self.vectors = self._around(centres, num_items, random)
        self.queries = self._around(centres, 1_000, random)[:num_queries]
        self.place = {"random": random.integers(0, 10_000, num_items)}
        rank = np.empty(num_items, np.int64)
        rank[np.argsort(-(self.vectors @ centres[0]))] = np.arange(num_items)
        self.place["corner"] = rank * 10_000 // num_items
        self.price = random.random(num_items) * 100
        self.brand = random.integers(0, 50, num_items)
        self.in_stock = random.random(num_items) < 0.8

    def __len__(self) -> int:
        return len(self.vectors)

    @staticmethod
    def _around(centres: Floats, num: int, random: np.random.Generator) -> Floats:
        noise = random.normal(size=(num, DIM)).astype(np.float32)
        return normalise(centres[random.integers(0, len(centres), num)] + np.float32(0.1) * noise)

    def bands(self, column: str) -> list[list[str]]:
        """The words in a list column: one for each band that the row is in."""
        names = [[f"b{band}" for band in BANDS if place < band] for place in range(10_000)]
        return [names[place] for place in self.place[column]]

    def mask(self, column: str, band: int) -> NDArray[np.bool_]:
        """Who passes; no column: everybody."""
        return self.place[column] < band if column else np.ones(len(self), np.bool_)


def where(column: str, band: int) -> Predicate:
    """The same as a filter."""
    return Compare(column, Operator.EQ, (f"b{band}",)) if column else EVERYTHING


def bundle_of(world: World, cache: Path) -> Bundle:
    """Written once. Items have no text, but the bundle has a text engine in name, so that day-zero items may."""
    directory = cache / f"bundle-{len(world)}"
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
    ids = [f"item_{row}" for row in range(len(world))]
    catalogue = Catalogue(ids, ids, pl.DataFrame(columns), SCHEMA)
    content = np.zeros((len(world), CONTENT_DIM), np.float32)
    with writing_directory(directory) as staging:
        write_files(staging, catalogue, world.vectors, [1] * len(world), content)
        write_index(world.vectors, staging)
        (staging / "text").mkdir()
        for name in TEXT_FILES:
            (staging / name).write_bytes(b"a text model would stand here")
        manifest = make_manifest(SCHEMA, len(world), DIM, "bench", text=text_info(CONTENT_DIM))
        publish(staging, directory, manifest)
    print(f"built {directory} in {time.monotonic() - started:.0f} s")
    return Bundle.open(directory / "bench")


def verdict(holds: bool) -> str:
    """The end of a line of the result."""
    return "holds" if holds else "SHORT"
