"""Items on the wire: rows of the catalogue as messages, and callers' items as changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from google.protobuf import struct_pb2
from google.rpc import code_pb2

from clozerec.v1 import retriever_pb2
from clozerec_core.card import render_card
from clozerec_core.catalogue import Schema
from clozerec_core.errors import BadRequest, Violation
from clozerec_core.filters import column_violations
from clozerec_core.hybrid import TINY_NORM, Floats
from clozerec_core.limits import MAX_ID_BYTES, MAX_ITEM_TEXT_BYTES
from clozerec_core.metadata import parse_item_metadata
from clozerec_retriever.live import LiveCatalogue
from clozerec_retriever.ranking import Ranking
from clozerec_retriever.records import Put
from clozerec_retriever.rendered import Rendered

METADATA_CACHE_BYTES = 32 * 1024 * 1024
"""Rendered metadata is kept up to about so much, and cards too; a Struct is slow to build and the same rows come up
again."""

ENTRY_BYTES = 1_000
"""Of an entry: its key, its bytes, and Python's own."""

MAX_TEXT_MODEL_BYTES = 256

Columns = tuple[list[str], list[float], list[int], list[bytes]]
"""Ids, scores, rows and cards of some items, best first."""


class RowMessages:
    """Renders rows of one bundle's live catalogue. Safe to use from several threads."""

    def __init__(self, live: LiveCatalogue) -> None:
        self._live = live
        self._metadata = Rendered(self._serialised_metadata, METADATA_CACHE_BYTES // ENTRY_BYTES).of
        self._card = Rendered(self._rendered_card, METADATA_CACHE_BYTES // ENTRY_BYTES).of

    def candidates(self, ranking: Ranking, fields: tuple[str, ...]) -> list[retriever_pb2.Candidate]:
        """One message a row, best first, with the named columns."""
        messages = []
        for row, score in zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True):
            message = retriever_pb2.Candidate(
                item_id=self._live.item_id(row), score=score, row=row, display_name=self._live.display_name(row)
            )
            message.metadata.MergeFromString(self._metadata(row, self._version(row), fields))
            messages.append(message)
        return messages

    def cards(self, ranking: Ranking, fields: tuple[str, ...]) -> retriever_pb2.Cards:
        """The rows in columns, best first; cards have the named columns of the catalogue."""
        item_ids, scores, rows, cards = self.columns(ranking, fields)
        return retriever_pb2.Cards(item_ids=item_ids, scores=scores, rows=rows, cards=cards)

    def columns(self, ranking: Ranking, fields: tuple[str, ...]) -> Columns:
        """The same before it is a message."""
        rows: list[int] = ranking.rows.tolist()
        item_ids = [self._live.item_id(row) for row in rows]
        cards = [self._card(row, self._version(row), fields) for row in rows]
        return item_ids, ranking.scores.tolist(), rows, cards

    def stored_item(self, row: int, fields: tuple[str, ...]) -> retriever_pb2.StoredItem:
        """A known item with the named columns, without its content vector."""
        message = retriever_pb2.StoredItem(
            item_id=self._live.item_id(row),
            known=True,
            display_name=self._live.display_name(row),
            day_zero=self._live.is_day_zero(row),
        )
        message.metadata.MergeFromString(self._metadata(row, self._version(row), fields))
        return message

    def _version(self, row: int) -> int:
        changed = self._live.changed(row)
        return 0 if changed is None else changed.version

    def _serialised_metadata(self, row: int, fields: tuple[str, ...]) -> bytes:
        """Bytes, not a Struct: they are a tenth of its size, and merge as fast as it copies."""
        struct = struct_pb2.Struct()
        struct.update(self._live.metadata(row, fields))
        return struct.SerializeToString()

    def _rendered_card(self, row: int, fields: tuple[str, ...]) -> bytes:
        return render_card(self._live.item_id(row), self._live.display_name(row), self._live.metadata(row, fields))


def put_from_wire(item: retriever_pb2.CatalogueItem, mask: frozenset[str] | None, live: LiveCatalogue) -> Put:
    """A caller's item as a change.

    Args:
        item: as it came.
        mask: the columns to change; None: all, and the content.
        live: the catalogue of the bundle that the call means.

    Raises:
        BadRequest: what is wrong with this item.
    """
    violations = list(_id_violations(item.item_id))
    for name, text, most in (
        ("text", item.text, MAX_ITEM_TEXT_BYTES),
        ("text_model", item.text_model, MAX_TEXT_MODEL_BYTES),
    ):
        if len(text.encode()) > most:
            violations.append(Violation(name, f"{len(text.encode()):,} bytes; at most {most:,} are allowed"))
    document = _plain(item.metadata)
    try:
        cells = parse_item_metadata(document, live.schema)
    except BadRequest as error:
        violations += error.violations
        cells = {}
    content = None if mask is not None and not item.text_model else np.array(item.content, np.float32)
    if content is not None:
        violations += _content_violations(content, item.text_model, live)
    if violations:
        raise BadRequest(violations)
    cells = {name: cells.get(name) for name in (live.schema if mask is None else mask)}
    return Put(item.item_id, cells, mask is not None, content, item.text_model, item.text)


def renewal_from_wire(item: retriever_pb2.CatalogueItem, live: LiveCatalogue) -> Put:
    """Content of a text that the item has already, made by another model.

    Raises:
        BadRequest: what is wrong with this item.
    """
    if not (item.text and item.text_model):
        raise BadRequest.of("text", "renew_content needs the text that the item has, and the text_model")
    bare = retriever_pb2.CatalogueItem(
        item_id=item.item_id, content=item.content, text_model=item.text_model, text=item.text
    )
    return replace(put_from_wire(bare, frozenset(), live), renews=True)


def mask_from_wire(request: retriever_pb2.RetrieverServiceUpsertItemsRequest, schema: Schema) -> frozenset[str] | None:
    """The columns that a call changes; None: all.

    Raises:
        BadRequest: with a violation for each unknown column.
    """
    if not request.HasField("update_mask"):
        return None
    names = list(request.update_mask.paths)
    if violations := list(column_violations(names, schema, "update_mask.paths")):
        raise BadRequest(violations)
    return frozenset(names)


def status_of(item_id: str, error: BadRequest | None = None, unknown: bool = False) -> retriever_pb2.ItemStatus:
    """What became of one item."""
    if error is not None:
        return retriever_pb2.ItemStatus(item_id=item_id, code=code_pb2.INVALID_ARGUMENT, message=error.message)
    if unknown:
        message = "unknown item; to add it, send all of it without update_mask"
        return retriever_pb2.ItemStatus(item_id=item_id, code=code_pb2.NOT_FOUND, message=message)
    return retriever_pb2.ItemStatus(item_id=item_id)


def check_id(item_id: str) -> BadRequest | None:
    """What is wrong with an item id."""
    violations = list(_id_violations(item_id))
    return BadRequest(violations) if violations else None


def _id_violations(item_id: str) -> list[Violation]:
    size = len(item_id.encode())
    if 1 <= size <= MAX_ID_BYTES:
        return []
    return [Violation("item_id", f"expected 1 to {MAX_ID_BYTES} bytes, not {size:,}")]


def _content_violations(content: Floats, text_model: str, live: LiveCatalogue) -> list[Violation]:
    if not len(content):
        return []
    if not text_model:
        return [Violation("text_model", "name the text model that made content")]
    if text_model == live.text_model and len(content) != live.content_dim:
        return [Violation("content", f"expected {live.content_dim} numbers, as {text_model} makes, not {len(content)}")]
    if not np.all(np.isfinite(content)):
        return [Violation("content", "expected finite numbers only, not NaN or infinity")]
    if float(np.linalg.norm(content.astype(np.float64))) <= TINY_NORM:
        return [Violation("content", "expected a vector with a direction, not zero; leave it empty without text")]
    return []


def _plain(struct: struct_pb2.Struct) -> Mapping[str, object]:
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: struct_pb2.Value) -> object:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            return int(number) if math.isfinite(number) and number == int(number) else number
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_value(member) for member in value.list_value.values]
        case "struct_value":
            return _plain(value.struct_value)
        case _:
            return None
