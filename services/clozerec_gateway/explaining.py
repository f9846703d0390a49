"""Say why: which items of a sequence drove a score, and how much of a similarity is behaviour and how much content.

A sequence is encoded again without each of its items, in one batch; what an item's absence takes from a candidate's
score is its weight. Similarity is a dot product of sums, content and behaviour of both sides, so it splits into their
parts; what both share is halved.

Shapes: S sequences left with one item out, K candidates, D dim, C content_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.hybrid import TINY_NORM, Floats, ItemSpace
from clozerec_gateway.query import Candidate, Reason

MAX_REASONS = 3
LEAST_WEIGHT = 0.001
"""Of a score: less is noise of single precision."""


def by_history(
    candidates: Sequence[Candidate],
    intent: Sequence[float],
    without: Mapping[str, Sequence[float]],
    display_names: Mapping[str, str],
) -> dict[str, list[Reason]]:
    """Reasons of each candidate, strongest first.

    Args:
        candidates: with vectors.
        intent: of the whole sequence.
        without: the intent of the sequence without each of its items, by the item's id.
        display_names: of the sequence's items.
    """
    if not without or not candidates:
        return {}
    vectors_KD = np.array([candidate.vector for candidate in candidates], np.float64)
    left_out_SD = np.array(list(without.values()), np.float64)
    drops_KS = (vectors_KD @ np.asarray(intent, np.float64))[:, None] - vectors_KD @ left_out_SD.T
    item_ids = list(without)
    reasons: dict[str, list[Reason]] = {}
    for candidate, drops_S in zip(candidates, drops_KS, strict=True):
        strongest = np.argsort(-drops_S, kind="stable")[:MAX_REASONS]
        reasons[candidate.item_id] = [
            Reason(
                "history",
                item_ids[place],
                round(float(drops_S[place]), 4),
                f"Because of {display_names.get(item_ids[place], item_ids[place])}",
            )
            for place in strongest
            if drops_S[place] >= LEAST_WEIGHT
        ]
    return reasons


def by_popularity(candidates: Sequence[Candidate]) -> dict[str, list[Reason]]:
    """Reasons of items that many took."""
    return {
        candidate.item_id: [Reason("popularity", "", candidate.score, "Popular with everyone")]
        for candidate in candidates
    }


class SimilarityParts:
    """Splits the similarity of items of one bundle. Loads the space once; blocking."""

    def __init__(self, bundle: Bundle) -> None:
        self._space = ItemSpace.from_weights(bundle.weights(), "output")
        self._catalogue = bundle.catalogue
        self._content_NC = bundle.content

    def reasons(
        self,
        query: tuple[str, Sequence[float]],
        query_name: str,
        candidates: Sequence[Candidate],
        contents: Mapping[str, Sequence[float]],
    ) -> dict[str, list[Reason]]:
        """Two reasons for each candidate; the weights of both add up to the score.

        Args:
            query: id (empty: none) and content vector (empty: as the bundle has it) of the item that was asked about.
            query_name: what to call it.
            candidates: the answer.
            contents: content vectors of the candidates that are not as the bundle has them.
        """
        reasons: dict[str, list[Reason]] = {}
        of_query = self._parts(*query)
        for candidate in candidates:
            shares = _shares(of_query, self._parts(candidate.item_id, contents.get(candidate.item_id, ())))
            behaviour, content = (round(share * candidate.score, 4) for share in shares)
            both = [
                Reason("behaviour", query[0], behaviour, f"People who like {query_name} like it too"),
                Reason("content", query[0], content, f"Its description is like that of {query_name}"),
            ]
            reasons[candidate.item_id] = sorted(both, key=lambda reason: -reason.weight)
        return reasons

    def _parts(self, item_id: str, content: Sequence[float]) -> tuple[Floats, Floats]:
        """Behaviour and content part of an item's vector, both `[D]`, before it is normalised."""
        row = self._catalogue.row_of(item_id) if item_id else None
        nothing_D = np.zeros(self._space.dim, np.float32)
        behaviour_D = nothing_D if row is None else self._space.behaviour[row]
        if len(content):
            content_C = np.asarray(content, np.float32)
        elif row is not None:
            content_C = self._content_NC[row]
        else:
            return behaviour_D, nothing_D
        return behaviour_D, self._space.project(content_C[None])[0]


def _shares(query: tuple[Floats, Floats], candidate: tuple[Floats, Floats]) -> tuple[float, float]:
    """How much of the cosine of two sums comes from behaviour, and from content; they add up to 1."""
    (b1, c1), (b2, c2) = query, candidate
    cross = (float(b1 @ c2) + float(c1 @ b2)) / 2
    behaviour, content = float(b1 @ b2) + cross, float(c1 @ c2) + cross
    whole = behaviour + content
    return (behaviour / whole, content / whole) if abs(whole) > TINY_NORM else (0.5, 0.5)
