"""Three conditions, one a range, one negated, beside one condition alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.predicate import AllOf, Compare, Negation, Operator, Predicate
from clozerec_retriever.retriever import Retriever, Selection
from retriever_bench.world import World, verdict

TOP_K = 10


def compound(world: World, bundle: Bundle, cache: Path) -> None:
    retriever = Retriever.open(bundle)
    retriever.warm_up()

    def median_ms(wheres: list[Predicate]) -> float:
        times = []
        for query, where in zip(np.tile(world.queries, (len(wheres), 1)), wheres, strict=False):
            started = world.clock()
            retriever.search_by_vector(query, Selection(TOP_K, where))
            times.append((world.clock() - started) * 1e3)
        return float(np.median(times[1:]))

    one: Predicate = Compare("brand", Operator.EQ, ("brand 7",))
    single, cached = median_ms([one] * 200), median_ms([_three(60.0)] * 200)
    fresh = median_ms([_three(60.0 + step / 1e3) for step in range(1, 101)])
    print(f"one condition, cached    {single:7.3f} ms")
    ratio = cached / single
    print(f"three conditions, cached {cached:7.3f} ms  {ratio:.2f}x (under 1.5)  {verdict(ratio < 1.5)}")
    print(f"three, never seen before {fresh:7.3f} ms  (under 5 at 1,000,000)  {verdict(fresh < 5)}")


def _three(price: float) -> Predicate:
    stock = Negation(Compare("in_stock", Operator.EQ, (False,)))
    brands = Compare("brand", Operator.IN, ("brand 7", "brand 8"))
    return AllOf((brands, Compare("price", Operator.LT, (price,)), stock))
