"""Qdrant's engine in this process, over the same items."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clozerec_core.hybrid import Floats
from retriever_bench.world import DIM, World

Search = Callable[[Floats], list[int]]


def shard_of(world: World, cache: Path) -> Any:
    """Built once; None where qdrant-edge-py is not installed."""
    if importlib.util.find_spec("qdrant_edge") is None:
        print("qdrant-edge-py is not installed (pip install '.[bench]'): compared with FAISS alone")
        return None
    import qdrant_edge as edge

    path = cache / f"edge-{len(world)}"
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
    for start in range(0, len(world), 10_000):
        points = [
            edge.Point(row, world.vectors[row].tolist(), {name: bands[name][row] for name in bands})
            for row in range(start, min(start + 10_000, len(world)))
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    while shard.optimize():
        pass
    shard.flush()
    (path / "done").touch()
    print(f"built {path} in {time.monotonic() - started:.0f} s")
    return shard


def search_of(shard: Any, column: str, band: int, top_k: int) -> Search:
    """A search under one filter; no column: under none."""
    import qdrant_edge as edge

    where = None
    if column:
        where = edge.Filter(must=[edge.FieldCondition(key=column, match=edge.MatchValue(f"b{band}"))])

    def search(query: Floats) -> list[int]:
        request = edge.QueryRequest(limit=top_k, query=edge.Query.Nearest(query.tolist()), filter=where)
        return [point.id for point in shard.query(request)]

    return search
