"""Is filtered search exact, and faster than Qdrant's engine in this process? What do changes, start and memory cost?

    python bench/retriever.py [SECTION ...] [--items 100000] [--queries 200] [--clock wall]
        [--cache build/bench-retriever]

Sections: search filters upserts kills start; default: all of them. Each ends within five minutes once its data is
built; `build` builds it and no more. What was built is kept in the cache directory.

One thread; the same vectors, filters and queries for all: ours (`Retriever.search_by_vector`), raw FAISS (flat index
with a bitmap, exact), and qdrant-edge-py, which the extra `bench` brings (left out, and said so, without it). Vectors
are clustered; filters pass random rows, or rows in one corner of the space. A row whose exact score is within 1e-4 of
the k-th best is as good an answer as any: scores are returned rounded to that step.

`--clock cpu` measures searches by the processor time of the whole process, for machines that have other work to do.
Changes and the start are measured by the wall in any case.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent)]

import faiss  # noqa: E402
from retriever_bench import filters, kills, search, start, upserts  # noqa: E402
from retriever_bench.world import World, bundle_of  # noqa: E402

SECTIONS = {
    "build": search.build,
    "search": search.beside_others,
    "filters": filters.compound,
    "upserts": upserts.under_search,
    "kills": kills.loop,
    "start": start.memory_and_time,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent.parent / "build" / "bench-retriever")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    world = World(arguments.items, arguments.queries)
    world.clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    bundle = bundle_of(world, arguments.cache)
    for name in arguments.sections or SECTIONS:
        print(f"-- {name}, {arguments.items:,} items, by the {arguments.clock} clock", flush=True)
        SECTIONS[name](world, bundle, arguments.cache)


if __name__ == "__main__":
    main()
