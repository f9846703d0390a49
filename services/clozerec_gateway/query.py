"""A question to the gateway in the domain's words, and the rules that make it valid.

Which field serves which query type stands in one table; everything wrong is named in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from clozerec_core.catalogue import Schema
from clozerec_core.errors import BadRequest, Violation
from clozerec_core.filters import column_violations
from clozerec_core.limits import (
    MAX_EXCLUDE_ITEM_IDS,
    MAX_ID_BYTES,
    MAX_ITEM_TEXT_BYTES,
    MAX_ITEMS_PER_CALL,
    MAX_SESSION_ITEMS,
    MAX_TOP_K,
)
from clozerec_core.predicate import EVERYTHING, Predicate

MAX_PAGE_TOKEN_CHARS = 64 * 1024


class QueryType(Enum):
    """What is asked; the values are the words of the JSON API."""

    ITEM_TO_ITEM = "item_to_item"
    USER_TO_ITEM = "user_to_item"
    CONTEXTUAL = "contextual"
    SEQUENTIAL = "sequential"


class Source(Enum):
    """How an item was scored."""

    MODEL = "model"
    TEXT = "text"
    POPULARITY = "popularity"


class Fallback(Enum):
    """What the answer fell back on."""

    NONE = "none"
    POPULARITY = "popularity"
    SESSION_ONLY = "session_only"
    DEGRADED = "degraded"


@dataclass(frozen=True)
class Query:
    """One request; empty texts and sequences mean that the field was not set."""

    query_type: QueryType
    user_id: str = ""
    item_id: str = ""
    item_text: str = ""
    session_items: Sequence[str] = ()
    where: Predicate = EVERYTHING
    top_k: int = 0
    exclude_item_ids: Sequence[str] = ()
    exclude_seen: bool | None = None
    mask_index: int | None = None
    metadata_fields: Sequence[str] = ()
    diversity: float = 0.0
    """0 (off) to 1."""
    explain: bool = False
    page_token: str = ""
    fingerprint: bytes = b""
    """Of the whole request but for its page token: which request a page belongs to."""


@dataclass(frozen=True)
class Place:
    """A place in the order of candidates."""

    score: float
    row: int


@dataclass(frozen=True)
class Reason:
    """Why an item is in an answer."""

    kind: str
    """`history`, `behaviour`, `content` or `popularity`."""
    item_id: str
    """The item that speaks for it; empty where there is none."""
    weight: float
    text: str


class Candidate(NamedTuple):
    """An item as the retriever found it."""

    item_id: str
    score: float
    row: int
    card: bytes
    """What the caller sees of it, see `clozerec_core.card`: nothing in the gateway reads it."""
    vector: Sequence[float] = ()
    """Where it was asked for."""

    @property
    def place(self) -> Place:
        return Place(self.score, self.row)


@dataclass(frozen=True)
class Found:
    """What the retriever answered."""

    candidates: Sequence[Candidate]
    exhausted: bool
    vectorless_item: bool = False


@dataclass(frozen=True)
class Recommendation:
    """One answer."""

    query_type: QueryType
    bundle_id: str
    found: Found
    source: Source
    fallback: Fallback
    unknown_item_ids: Sequence[str] = ()
    text_truncated: bool = False
    reasons: Mapping[str, Sequence[Reason]] = field(default_factory=dict)
    """Of each item by its id; empty unless they were asked for."""
    next_page_token: str = ""


@dataclass(frozen=True)
class _Fields:
    """The fields that set a query type apart; those that are in neither set must be empty."""

    needs: frozenset[str]
    """Every one of them; `item` stands for `item_id` or `item_text`."""
    may_have: frozenset[str] = field(default_factory=frozenset)


_FIELDS = {
    QueryType.ITEM_TO_ITEM: _Fields(frozenset({"item"}), frozenset({"user_id"})),
    QueryType.USER_TO_ITEM: _Fields(frozenset({"user_id"}), frozenset({"mask_index"})),
    QueryType.CONTEXTUAL: _Fields(frozenset({"user_id", "item"})),
    QueryType.SEQUENTIAL: _Fields(frozenset({"session_items"}), frozenset({"user_id", "mask_index"})),
}


def violations_of(query: Query, schema: Schema) -> Iterator[Violation]:
    """Everything that is wrong with a query, whatever is in the catalogue."""
    yield from _type_violations(query)
    yield from id_violations("user_id", query.user_id)
    yield from id_violations("item_id", query.item_id)
    yield from id_list_violations("session_items", query.session_items, MAX_SESSION_ITEMS)
    yield from id_list_violations("exclude_item_ids", query.exclude_item_ids, MAX_EXCLUDE_ITEM_IDS)
    if len(query.item_text.encode()) > MAX_ITEM_TEXT_BYTES:
        yield Violation(
            "item_text", f"{len(query.item_text.encode())} bytes; at most {MAX_ITEM_TEXT_BYTES} are allowed"
        )
    if query.item_text and not query.item_text.strip():
        yield Violation("item_text", "expected some words, not blanks only")
    if query.top_k > MAX_TOP_K:
        yield Violation("top_k", f"expected 0 (the bundle's default) to {MAX_TOP_K}, not {query.top_k}")
    if not (math.isfinite(query.diversity) and 0 <= query.diversity <= 1):
        yield Violation("diversity", "expected 0 (off) to 1")
    if len(query.page_token) > MAX_PAGE_TOKEN_CHARS:
        yield Violation("page_token", "longer than any that was given out")
    if query.query_type is QueryType.SEQUENTIAL and (query.mask_index or 0) > len(query.session_items):
        yield Violation("mask_index", mask_index_fault(query.mask_index or 0, len(query.session_items)))
    yield from column_violations(query.metadata_fields, schema, "metadata_fields")


def mask_index_fault(mask_index: int, sequence_len: int) -> str:
    """What is wrong with a mask beyond the sequence."""
    return f"expected 0 to {sequence_len}, the length of the sequence, not {mask_index}"


def id_list_violations(name: str, ids: Sequence[str], at_most: int) -> Iterator[Violation]:
    """Ids that are empty or too long, or too many of them."""
    if len(ids) > at_most:
        yield Violation(name, f"{len(ids)} ids; at most {at_most} are allowed")
        return
    for i, each in enumerate(ids):
        if not 0 < len(each.encode()) <= MAX_ID_BYTES:
            yield from id_violations(f"{name}[{i}]", each, is_required=True)


def check_item_ids(item_ids: Sequence[str]) -> None:
    """Refuse a list of items to look up that is empty or holds a wrong id."""
    faults = list(id_list_violations("item_ids", item_ids, MAX_ITEMS_PER_CALL))
    if not item_ids:
        faults = [Violation("item_ids", f"expected 1 to {MAX_ITEMS_PER_CALL} ids")]
    if faults:
        raise BadRequest(faults)


def _type_violations(query: Query) -> Iterator[Violation]:
    rules = _FIELDS[query.query_type]
    given = {
        "user_id": bool(query.user_id),
        "item_id": bool(query.item_id),
        "item_text": bool(query.item_text),
        "session_items": bool(query.session_items),
        "mask_index": query.mask_index is not None,
    }
    kind = query.query_type.value
    for name, is_given in given.items():
        role = "item" if name in ("item_id", "item_text") else name
        if is_given and role not in rules.needs | rules.may_have:
            yield Violation(name, f"{kind} has no use for it; leave it out")
        elif not is_given and name in rules.needs:
            yield Violation(name, f"{kind} needs it")
    if "item" in rules.needs and not (given["item_id"] or given["item_text"]):
        yield Violation("item_id", f"{kind} needs item_id or item_text")


def id_violations(name: str, value: str, is_required: bool = False) -> Iterator[Violation]:
    """What is wrong with an id; empty means that it was not given."""
    size = len(value.encode())
    if size > MAX_ID_BYTES:
        yield Violation(name, f"expected an id of 1 to {MAX_ID_BYTES} bytes, not {size}")
    elif is_required and not value:
        yield Violation(name, f"expected an id of 1 to {MAX_ID_BYTES} bytes, not the empty text")
