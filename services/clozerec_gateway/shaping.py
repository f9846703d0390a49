"""From candidates to an answer's items: spread them, and say where the next page begins."""

from __future__ import annotations

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.hybrid import Floats
from clozerec_gateway.diversity import diverse_order
from clozerec_gateway.paging import Page, Ranked, mark
from clozerec_gateway.query import Candidate, Found


def diversified(
    found: Found, diversity: float, top_k: int, page: Page | None, bundle: Bundle
) -> tuple[Found, frozenset[int]]:
    """The next `top_k` picks of a set of candidates, and marks of all that are picked by then."""
    taken = page.returned if page is not None else frozenset[int]()
    marks = [mark(candidate.item_id) for candidate in found.candidates]
    vectors_ND = np.zeros((len(found.candidates), bundle.manifest.model.dim), np.float32)
    for place, candidate in enumerate(found.candidates):
        vectors_ND[place] = _vector(candidate, bundle)
    places = diverse_order(
        [candidate.score for candidate in found.candidates],
        vectors_ND,
        diversity,
        [place for place, each in enumerate(marks) if each in taken],
        top_k,
    )
    picked = [found.candidates[place] for place in places]
    is_all = len(taken) + len(picked) >= len(found.candidates)
    return Found(picked, exhausted=is_all and len(picked) < top_k), taken | {marks[place] for place in places}


def next_page(ranked: Ranked, found: Found, top_k: int, returned: frozenset[int] | None) -> Page | None:
    """Where the next page of an answer begins; None where this is the last."""
    if found.exhausted or len(found.candidates) < top_k:
        return None
    if returned is not None:
        return Page(ranked, after=None, returned=returned)
    return Page(ranked, after=found.candidates[-1].place)


def _vector(candidate: Candidate, bundle: Bundle) -> Floats:
    """The candidate's own where the search brought it; popularity knows the bundle's only."""
    if len(candidate.vector):
        return np.array(candidate.vector, np.float32)
    row = bundle.catalogue.row_of(candidate.item_id)
    return np.zeros(bundle.manifest.model.dim, np.float32) if row is None else np.asarray(bundle.vectors[row])
