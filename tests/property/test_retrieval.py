"""Search and popularity against brute force over every item, ties and missing vectors included."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from bundle_factory import behaviour_alone, make_manifest
from filter_strategies import SCHEMA, catalogues, predicates
from hypothesis import example, given
from hypothesis import strategies as st

from clozerec_core.catalogue import Catalogue
from clozerec_core.hybrid import Floats, normalise
from clozerec_core.predicate import Predicate, matches
from clozerec_retriever import index as index_module
from clozerec_retriever.index import ItemIndex
from clozerec_retriever.live import LiveCatalogue
from clozerec_retriever.passing import Passing
from clozerec_retriever.popularity import Popularity
from clozerec_retriever.ranking import Place, Ranking, rank
from clozerec_retriever.retriever import Found, Retriever, Selection

DIM = 4
DIRECTIONS = st.lists(st.integers(-2, 2), min_size=DIM, max_size=DIM)
"""A small grid: many items share a direction, and some have none."""


def ranked(scores: dict[int, float], top_k: int) -> list[tuple[int, int]]:
    """(row, score in steps of 1e-4) by the contract, from exact scores."""
    steps = {row: round(score * 10_000) for row, score in scores.items()}
    return sorted(steps.items(), key=lambda pair: (-pair[1], pair[0]))[:top_k]


def in_steps(ranking: Ranking) -> list[tuple[int, int]]:
    return [(int(row), round(score * 10_000)) for row, score in zip(ranking.rows, ranking.scores, strict=True)]


def cosines(vectors_ND: Floats, intent_D: Floats) -> dict[int, float]:
    """Of every row that has a vector."""
    return {
        row: math.fsum(float(a) * float(b) for a, b in zip(vector, intent_D, strict=True))
        for row, vector in enumerate(vectors_ND)
        if vector.any()
    }


def flat_index(vectors_ND: Floats) -> ItemIndex:
    return ItemIndex(vectors_ND.copy())


def unit(direction: list[int]) -> Floats:
    return normalise(np.array([direction], np.float32))[0]


@dataclass(frozen=True)
class World:
    """A retriever, and what it was made from."""

    catalogue: Catalogue
    vectors: Floats
    counts: list[int]

    def retriever(self) -> Retriever:
        manifest = make_manifest(SCHEMA, *self.vectors.shape)
        popularity = Popularity(np.array(self.counts, np.int64))
        live = LiveCatalogue(manifest, self.catalogue, self.vectors[:, :0], behaviour_alone(self.vectors))
        return Retriever(manifest, live, flat_index(self.vectors), popularity)

    def passing(self, where: Predicate, excluded: list[str]) -> list[int]:
        """Rows that may be returned, one item at a time."""
        return [
            row
            for row, item_id in enumerate(self.catalogue.item_ids)
            if item_id not in excluded and matches(where, self.catalogue.cells(row))
        ]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    catalogue = draw(catalogues())
    size = len(catalogue)
    directions = draw(st.lists(DIRECTIONS, min_size=size, max_size=size))
    counts = draw(st.lists(st.integers(0, 5) | st.integers(0, 10**6), min_size=size, max_size=size))
    return World(catalogue, normalise(np.array(directions, np.float32)), counts)


EXCLUSIONS = st.lists(st.sampled_from(["i0", "i1", "i5", "nobody"]), max_size=3)
TOP_K = st.integers(1, 15)


def check(found: Found, expected: list[tuple[int, int]], top_k: int) -> None:
    assert in_steps(found.ranking) == expected
    assert found.exhausted is (len(expected) < top_k)


@given(worlds(), DIRECTIONS.filter(any), predicates(), EXCLUSIONS, TOP_K)
def test_filtered_search_equals_brute_force(
    world: World, direction: list[int], where: Predicate, excluded: list[str], top_k: int
) -> None:
    intent = unit(direction)
    allowed = set(world.passing(where, excluded))
    scores = {row: score for row, score in cosines(world.vectors, intent).items() if row in allowed}
    found = world.retriever().search_by_vector(intent, Selection(top_k, where, excluded))
    check(found, ranked(scores, top_k), top_k)


@given(worlds(), st.integers(0, 11), predicates(), EXCLUSIONS, TOP_K)
def test_search_by_a_stored_item_equals_brute_force_without_the_item(
    world: World, row: int, where: Predicate, excluded: list[str], top_k: int
) -> None:
    row %= len(world.catalogue)
    found = world.retriever().search_by_item(world.catalogue.item_ids[row], Selection(top_k, where, excluded))
    if not world.vectors[row].any():
        assert found.vectorless_item
        check(found, [], top_k)
        return
    allowed = set(world.passing(where, excluded)) - {row}
    scores = {other: score for other, score in cosines(world.vectors, world.vectors[row]).items() if other in allowed}
    check(found, ranked(scores, top_k), top_k)


@given(worlds(), predicates(), EXCLUSIONS, TOP_K)
def test_filtered_popularity_equals_brute_force(
    world: World, where: Predicate, excluded: list[str], top_k: int
) -> None:
    largest = max(world.counts) or 1
    scores = {row: float(Fraction(world.counts[row], largest)) for row in world.passing(where, excluded)}
    found = world.retriever().popular(Selection(top_k, where, excluded))
    check(found, ranked(scores, top_k), top_k)


@given(worlds(), DIRECTIONS.filter(any), predicates(), EXCLUSIONS, st.integers(1, 4))
def test_pages_one_after_the_other_are_the_whole_order(
    world: World, direction: list[int], where: Predicate, excluded: list[str], page_len: int
) -> None:
    retriever, intent = world.retriever(), unit(direction)
    everything = Selection(1_000, where, excluded)
    for search in (lambda selection: retriever.search_by_vector(intent, selection), retriever.popular):
        paged: list[tuple[int, int]] = []
        after, exhausted = None, False
        while not exhausted:
            found = search(Selection(page_len, where, excluded, after))
            paged += in_steps(found.ranking)
            exhausted = found.exhausted
            if len(found.ranking):
                # A score crosses the wire in single precision.
                after = Place(float(np.float32(found.ranking.scores[-1])), int(found.ranking.rows[-1]))
        assert paged == in_steps(search(everything).ranking)


@pytest.mark.parametrize("gather_share", [0.0, 0.25, 1.0], ids=["scan", "as measured", "gather"])
@given(st.integers(0, 10**6), st.integers(1, 90), st.floats(0.05, 1.0), st.integers(1, 60))
@example(0, 1, 1.0, 10)  # every item ties with every other
@example(1, 2, 0.9, 1)
def test_both_ways_to_search_find_every_tie(
    gather_share: float, seed: int, num_directions: int, share: float, top_k: int
) -> None:
    """Large enough that a scan proposes only a part, and so few directions that ties go beyond what it proposes."""
    random = np.random.default_rng(seed)
    distinct = normalise(random.normal(size=(num_directions, 8)).astype(np.float32))
    vectors = distinct[random.integers(0, num_directions, 300)]
    vectors[random.random(300) < 0.05] = 0
    passing = random.random(300) < share
    intent = normalise(random.normal(size=(1, 8)).astype(np.float32))[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "GATHER_SHARE", gather_share)
        index = flat_index(vectors)
        proposal = index.best(intent, top_k, Passing(passing, index.has_vector_N))
        ranking = rank(proposal.rows, proposal.scores, top_k)
    scores = {row: score for row, score in cosines(vectors, intent).items() if passing[row]}
    assert in_steps(ranking) == ranked(scores, top_k)
