"""What became of the answers: counted when they are given, and when an event names the one that led to it.

A recommendation's id carries a tag of its bundle, query type and fallback, so that any gateway can attribute an event
without having kept anything: the hit rate of a bundle is `..._taken_total` over `..._recommendations_total`. Ids are
opaque to callers. A made-up one can count a hit and nothing else: label values come from enums and from bundles that
this gateway has answered with.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from functools import lru_cache

from prometheus_client import Counter

from clozerec.v1 import recommender_pb2
from clozerec_core import metrics
from clozerec_core.request_context import new_id

OTHER_BUNDLE = "other"
"""Stands for bundles that this gateway has seen no answer of, such as those from before its start."""

MAX_BUNDLES = 16
MAX_REMEMBERED = 100_000
"""Answers whose hit has been counted: an answer counts once, however many of its items are taken."""

COVERAGE_WINDOW_S = 3600.0
MAX_DISTINCT = 1_000_000

_ID = re.compile(r"[0-9a-f]{32}-([0-9a-f]{8})([0-9])([0-9])")


@lru_cache(MAX_BUNDLES)
def _tag(bundle_id: str) -> str:
    return hashlib.blake2b(bundle_id.encode(), digest_size=4).hexdigest()


def _words(enum: type[recommender_pb2.QueryType], prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix).lower() for name, number in enum.items()}


_QUERY_TYPES = _words(recommender_pb2.QueryType, "QUERY_TYPE_")
_FALLBACKS = _words(recommender_pb2.Fallback, "FALLBACK_")  # type: ignore[arg-type]  # enums share their methods only
_SOURCES = _words(recommender_pb2.Source, "SOURCE_")  # type: ignore[arg-type]


class QualityWatch:
    """One gateway's counts."""

    def __init__(self) -> None:
        self._bundle_of_tag: OrderedDict[str, str] = OrderedDict()
        self._counted: OrderedDict[str, None] = OrderedDict()
        self._given: dict[tuple[str, int, int], Counter] = {}
        self._from = {source: metrics.GATEWAY_RECOMMENDED_ITEMS.labels(word) for source, word in _SOURCES.items()}
        self._distinct: set[str] = set()
        self._last_window = 0
        self._window_ends = time.monotonic() + COVERAGE_WINDOW_S

    def given(self, answer: recommender_pb2.RecommendResponse) -> str:
        """Count an answer; the recommendation id that it should have, always unique."""
        key = (answer.bundle_id, answer.query_type, answer.fallback)
        counter = self._given.get(key)
        if counter is None:
            labels = (answer.bundle_id, _QUERY_TYPES[answer.query_type], _FALLBACKS[answer.fallback])
            counter = self._given[key] = metrics.GATEWAY_RECOMMENDATIONS.labels(*labels)
        counter.inc()
        if answer.items:  # all of them were scored in one way
            self._from[answer.items[0].source].inc(len(answer.items))
        self._cover({item.item_id for item in answer.items})
        return f"{new_id()}-{self.learn(answer.bundle_id)}{answer.query_type}{answer.fallback}"

    def learn(self, bundle_id: str) -> str:
        """The tag of a bundle, whose hits are counted under its id from now on."""
        tag = _tag(bundle_id)
        if tag not in self._bundle_of_tag:
            self._bundle_of_tag[tag] = bundle_id
            if len(self._bundle_of_tag) > MAX_BUNDLES:
                self._bundle_of_tag.popitem(last=False)
        return tag

    def taken(self, recommendation_id: str) -> None:
        """Count that somebody took something from an answer, once an answer; ids of another form are left alone."""
        found = _ID.fullmatch(recommendation_id)
        if found is None or recommendation_id in self._counted:
            return
        query_type, fallback = _QUERY_TYPES.get(int(found[2])), _FALLBACKS.get(int(found[3]))
        if query_type is None or fallback is None:
            return
        self._counted[recommendation_id] = None
        if len(self._counted) > MAX_REMEMBERED:
            self._counted.popitem(last=False)
        bundle_id = self._bundle_of_tag.get(found[1], OTHER_BUNDLE)
        metrics.GATEWAY_RECOMMENDATIONS_TAKEN.labels(bundle_id, query_type, fallback).inc()

    def _cover(self, item_ids: set[str]) -> None:
        """Distinct items of this window; the fuller of this and the last one is shown."""
        now = time.monotonic()
        if now >= self._window_ends:
            self._last_window = len(self._distinct)
            self._distinct = set()
            self._window_ends = now + COVERAGE_WINDOW_S
        if len(self._distinct) < MAX_DISTINCT:
            self._distinct |= item_ids
        metrics.GATEWAY_DISTINCT_ITEMS.set(max(self._last_window, len(self._distinct)))
