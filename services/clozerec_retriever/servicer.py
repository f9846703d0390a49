"""`clozerec.v1.RetrieverService` on the wire: messages to domain types and back, and nothing else.

A call that may take long runs whole on a worker thread, conversion included: a thousand candidates take longer to
render than to find, and the event loop has health checks to answer. What takes less than handing it over, by the
measure taken at warm-up, is done at once. Changes wait for the journal's thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import faiss
import numpy as np

from clozerec.v1 import retriever_pb2, retriever_pb2_grpc
from clozerec_core import metrics
from clozerec_core.bundle import Bundle
from clozerec_core.errors import BadRequest, ClozerecError
from clozerec_core.filter_wire import columns_to_wire, filter_from_wire
from clozerec_core.limits import MAX_ITEMS_PER_CALL
from clozerec_core.predicate import EVERYTHING, Predicate
from clozerec_core.request_context import check_time_left
from clozerec_core.rpc import Service
from clozerec_core.telemetry import get_logger
from clozerec_core.workers import Workers
from clozerec_retriever.journal import Journal
from clozerec_retriever.planner import Plan
from clozerec_retriever.ranking import Place
from clozerec_retriever.records import Drop, Put
from clozerec_retriever.replica import Replica
from clozerec_retriever.retriever import Found, Retriever, Selection
from clozerec_retriever.shelf import Shelf
from clozerec_retriever.wire import Columns, check_id, mask_from_wire, put_from_wire, renewal_from_wire, status_of
from clozerec_retriever.writer import JournalWriter

SERVICE_NAME = "clozerec.v1.RetrieverService"

MAX_LISTED = 1_000
"""Items to embed that one answer names."""

QUICK_BYTES = 8_192
"""A larger request takes long to read."""

log = get_logger("retriever")

_SEARCH_SECONDS = {plan: metrics.RETRIEVER_SEARCH_SECONDS.labels(plan.value) for plan in Plan}

Asked = TypeVar("Asked", retriever_pb2.SearchRequest, retriever_pb2.ListPopularRequest)
T = TypeVar("T")


class RetrieverServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Answers from the loaded bundles, and writes changes."""

    def __init__(
        self, shelf: Shelf, journal: Journal, replica: Replica | None, snapshots_dir: Path, search_threads: int
    ) -> None:
        self._shelf = shelf
        self._journal = journal
        self._replica = replica
        self._snapshots_dir = snapshots_dir
        self._log = log.bind()  # at once: to find out at each search that nobody listens takes as long as searching
        self._writer = JournalWriter(journal, shelf.show, shelf.tidy, replica)
        # OpenMP's setting belongs to the thread that makes it. One search gains nothing from more threads, and idle
        # ones would spin beside the other searches.
        self._workers = Workers("retriever", search_threads, on_start=lambda: faiss.omp_set_num_threads(1))

    def service(self) -> Service:
        """What a server needs to host it."""
        return Service(
            SERVICE_NAME, lambda server: retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(self, server)
        )

    async def Search(self, request: retriever_pb2.SearchRequest, context: Any) -> retriever_pb2.SearchResponse:
        return await self._done(request, self._search)

    def find_at_once(
        self,
        bundle_id: str,
        question: Sequence[float] | str,
        fields: Sequence[str],
        top_k: int,
        where: Predicate,
        exclude_item_ids: Sequence[str],
        exclude_rows: Sequence[int],
    ) -> tuple[Columns, bool, bool] | None:
        """`Search` for a caller of this process, without messages; None: ask the RPC, where it takes long or fails.

        Args:
            question: a vector of the bundle's space, or the id of a stored item.
            fields: columns on the cards; empty means all. The rest as in `Selection`.

        Returns:
            Ids, scores, rows and cards, each best first; `exhausted`; `vectorless_item`.
        """
        try:
            retriever = self._shelf.get(bundle_id)
            selection = Selection(top_k, where, exclude_item_ids, exclude_rows=exclude_rows)
            if not retriever.is_quick(selection):
                return None
            names = retriever.metadata_fields(fields)
            faiss.omp_set_num_threads(1)
            start = time.perf_counter()
            if isinstance(question, str):
                found = retriever.search_by_item(question, selection)
            else:
                found = retriever.search_by_vector(question, selection)
        except ClozerecError:
            return None
        self._report(found, time.perf_counter() - start)
        return retriever.messages.columns(found.ranking, names), found.exhausted, found.vectorless_item

    async def ListPopular(
        self, request: retriever_pb2.ListPopularRequest, context: Any
    ) -> retriever_pb2.ListPopularResponse:
        return await self._done(request, self._list_popular)

    async def GetItems(
        self, request: retriever_pb2.RetrieverServiceGetItemsRequest, context: Any
    ) -> retriever_pb2.RetrieverServiceGetItemsResponse:
        # Who has changed an item through another retriever reads what was acknowledged.
        await self._writer.catch_up()
        return await self._workers.run(lambda: self._get_items(request))

    async def UpsertItems(
        self, request: retriever_pb2.RetrieverServiceUpsertItemsRequest, context: Any
    ) -> retriever_pb2.RetrieverServiceUpsertItemsResponse:
        retriever = self._shelf.get(request.bundle_id)
        read = await self._workers.run(lambda: _puts(request, retriever))
        puts = [change for change in read if isinstance(change, Put)]
        live = retriever.live
        results = iter(await self._writer.write(puts, live.schema, live.is_in_bundle) if puts else ())
        statuses = [
            status_of(item.item_id, unknown=next(results) is None)
            if isinstance(change, Put)
            else status_of(item.item_id, error=change)
            for item, change in zip(request.items, read, strict=True)
        ]
        return retriever_pb2.RetrieverServiceUpsertItemsResponse(statuses=statuses, bundle_id=retriever.bundle_id)

    async def DeleteItems(
        self, request: retriever_pb2.RetrieverServiceDeleteItemsRequest, context: Any
    ) -> retriever_pb2.RetrieverServiceDeleteItemsResponse:
        _check_count("item_ids", len(request.item_ids))
        retriever = self._shelf.current
        faults = [check_id(item_id) for item_id in request.item_ids]
        drops = [Drop(item_id) for item_id, fault in zip(request.item_ids, faults, strict=True) if fault is None]
        if drops:
            await self._writer.write(drops, retriever.live.schema, retriever.live.is_in_bundle)
        statuses = [status_of(item_id, fault) for item_id, fault in zip(request.item_ids, faults, strict=True)]
        return retriever_pb2.RetrieverServiceDeleteItemsResponse(statuses=statuses, bundle_id=retriever.bundle_id)

    async def CreateSnapshot(
        self, request: retriever_pb2.CreateSnapshotRequest, context: Any
    ) -> retriever_pb2.CreateSnapshotResponse:
        path = await self._workers.run(lambda: self._journal.snapshot(self._snapshots_dir))
        return retriever_pb2.CreateSnapshotResponse(path=str(path))

    async def GetIndexInfo(
        self, request: retriever_pb2.GetIndexInfoRequest, context: Any
    ) -> retriever_pb2.GetIndexInfoResponse:
        retriever = self._shelf.current
        live, manifest = retriever.live, retriever.manifest
        to_embed = live.to_embed
        return retriever_pb2.GetIndexInfoResponse(
            bundle_id=manifest.bundle_id,
            num_items=live.num_items,
            dim=manifest.model.dim,
            columns=columns_to_wire(live.schema),
            default_top_k=manifest.serving.top_k_results,
            loaded_bundle_ids=self._shelf.bundle_ids,
            num_day_zero_items=live.num_day_zero,
            num_items_to_embed=len(to_embed),
            items_to_embed=to_embed[:MAX_LISTED],
            retyped_columns=live.retyped_columns,
        )

    def load(self, bundle: Bundle) -> None:
        """Load a verified bundle beside the others, with every change laid over it; calls may name it from then on."""
        retriever = Retriever.open(bundle)
        retriever.warm_up()
        self._shelf.add(retriever, self._journal.records())

    def make_current(self, bundle_id: str) -> None:
        """Let calls that name no bundle mean this one."""
        self._shelf.make_current(bundle_id)

    def release(self, bundle_id: str) -> None:
        """Forget a bundle that is not the current one."""
        self._shelf.release(bundle_id)

    def close(self) -> None:
        """Stop the workers once no call is under way, and write what waits."""
        self._workers.close()
        self._writer.close()
        self._journal.close()
        if self._replica is not None:
            self._replica.close()

    async def _done(self, request: Asked, work: Callable[[Asked, Retriever, Selection], T]) -> T:
        """What is quick is done here; the rest on a thread, reading the request included."""
        retriever = self._shelf.get(request.bundle_id)
        if request.ByteSize() <= QUICK_BYTES:
            selection = _selection(request, retriever)
            if retriever.is_quick(selection):
                check_time_left()
                faiss.omp_set_num_threads(1)
                return work(request, retriever, selection)
        return await self._workers.run(lambda: work(request, retriever, _selection(request, retriever)))

    def _search(
        self, request: retriever_pb2.SearchRequest, retriever: Retriever, selection: Selection
    ) -> retriever_pb2.SearchResponse:
        if bool(request.intent) == bool(request.item_id):
            raise BadRequest.of("intent", "send exactly one of intent and item_id")
        if request.intent and not request.bundle_id:
            raise BadRequest.of("bundle_id", "name the bundle that intent comes from; spaces of two must not mix")
        fields = retriever.metadata_fields(request.metadata_fields)
        start = time.perf_counter()
        if request.item_id:
            found = retriever.search_by_item(request.item_id, selection)
        else:
            found = retriever.search_by_vector(np.array(list(request.intent), np.float32), selection)
        self._report(found, time.perf_counter() - start)
        with_vectors, as_cards = request.include_vectors, request.as_cards
        return retriever_pb2.SearchResponse(
            bundle_id=retriever.bundle_id,
            candidates=() if as_cards else _candidates(found, retriever, fields, with_vectors),
            exhausted=found.exhausted,
            vectorless_item=found.vectorless_item,
            cards=_cards(found, retriever, fields, with_vectors) if as_cards else None,
        )

    def _report(self, found: Found, took_s: float) -> None:
        """How a search was done, into metrics and log."""
        if found.plan is None:
            return
        _SEARCH_SECONDS[found.plan].observe(took_s)
        metrics.RETRIEVER_PASS_SHARE.observe(found.share)
        self._log.debug("searched", plan=found.plan.value, pass_ratio=round(found.share, 6), took_ms=took_s * 1e3)

    def _list_popular(
        self, request: retriever_pb2.ListPopularRequest, retriever: Retriever, selection: Selection
    ) -> retriever_pb2.ListPopularResponse:
        fields = retriever.metadata_fields(request.metadata_fields)
        found = retriever.popular(selection)
        return retriever_pb2.ListPopularResponse(
            bundle_id=retriever.bundle_id,
            candidates=() if request.as_cards else _candidates(found, retriever, fields, with_vectors=False),
            exhausted=found.exhausted,
            cards=_cards(found, retriever, fields, with_vectors=False) if request.as_cards else None,
        )

    def _get_items(
        self, request: retriever_pb2.RetrieverServiceGetItemsRequest
    ) -> retriever_pb2.RetrieverServiceGetItemsResponse:
        retriever = self._shelf.get(request.bundle_id)
        fields = retriever.metadata_fields(request.metadata_fields)
        _check_count("item_ids", len(request.item_ids))
        records = self._journal.get(request.item_ids) if request.include_content else {}
        response = retriever_pb2.RetrieverServiceGetItemsResponse(bundle_id=retriever.bundle_id)
        for item_id in request.item_ids:
            row = retriever.live.row_of(item_id)
            if row is None:
                response.items.add(item_id=item_id)
                continue
            item = response.items.add()
            item.CopyFrom(retriever.messages.stored_item(row, fields))
            if request.include_content:
                record = records.get(item_id)
                item.content.extend(retriever.live.content(row, record).tolist())
                if record is not None:
                    item.text, item.text_model = record.text, record.text_model
        return response


def _puts(request: retriever_pb2.RetrieverServiceUpsertItemsRequest, retriever: Retriever) -> list[Put | BadRequest]:
    """What each item of a call asks for, or what is wrong with it."""
    _check_count("items", len(request.items))
    mask = mask_from_wire(request, retriever.live.schema)
    read: list[Put | BadRequest] = []
    for item in request.items:
        try:
            if request.renew_content:
                read.append(renewal_from_wire(item, retriever.live))
            else:
                read.append(put_from_wire(item, mask, retriever.live))
        except BadRequest as error:
            read.append(error)
    return read


def _check_count(field: str, count: int) -> None:
    if not 1 <= count <= MAX_ITEMS_PER_CALL:
        raise BadRequest.of(field, f"expected 1 to {MAX_ITEMS_PER_CALL:,}, not {count:,}")


def _selection(request: Asked, retriever: Retriever) -> Selection:
    return Selection(
        top_k=request.top_k,
        where=filter_from_wire(request.filter, retriever.live.schema) if request.HasField("filter") else EVERYTHING,
        exclude_item_ids=request.exclude_item_ids,
        exclude_rows=_excluded_rows(request, retriever),
        after=_place(request.after) if request.HasField("after") else None,
        exact=isinstance(request, retriever_pb2.SearchRequest) and request.exact,
    )


def _excluded_rows(request: Asked, retriever: Retriever) -> Sequence[int]:
    rows = list(request.exclude_rows)
    if rows and not request.bundle_id:
        raise BadRequest.of("bundle_id", "name the bundle whose rows exclude_rows holds; those of two must not mix")
    num_rows = retriever.manifest.model.num_items
    return rows if max(rows, default=0) < num_rows else [row for row in rows if row < num_rows]


def _place(cursor: retriever_pb2.Cursor) -> Place:
    if not math.isfinite(cursor.score):
        raise BadRequest.of("after.score", "expected the score of a candidate")
    return Place(cursor.score, cursor.row)


def _cards(found: Found, retriever: Retriever, fields: tuple[str, ...], with_vectors: bool) -> retriever_pb2.Cards:
    cards = retriever.messages.cards(found.ranking, fields)
    if with_vectors:
        vectors = [retriever.vector(row) for row in cards.rows]
        nothing = np.zeros(retriever.manifest.model.dim, np.float32)  # taken away since the search
        cards.vectors.extend(np.concatenate([nothing[:0], *(nothing if v is None else v for v in vectors)]).tolist())
    return cards


def _candidates(
    found: Found, retriever: Retriever, fields: tuple[str, ...], with_vectors: bool
) -> list[retriever_pb2.Candidate]:
    messages = retriever.messages.candidates(found.ranking, fields)
    for message in messages if with_vectors else ():
        vector = retriever.vector(message.row)
        if vector is not None:  # taken away since the search
            message.vector.extend(vector.tolist())
    return messages
