"""`clozerec.v1.RetrieverService` on the wire: messages to domain types and back, and nothing else.

Every call that may scan the catalogue runs whole on a worker thread, conversion included: a thousand candidates take
longer to render than to find, and the event loop has health checks to answer.
"""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np

from clozerec.v1 import retriever_pb2, retriever_pb2_grpc
from clozerec_core.bundle import Bundle
from clozerec_core.errors import BadRequest, NotImplementedYet
from clozerec_core.filter_wire import columns_to_wire, filter_from_wire
from clozerec_core.rpc import Service
from clozerec_core.workers import Workers
from clozerec_retriever.ranking import Place
from clozerec_retriever.retriever import Found, Retriever, Selection
from clozerec_retriever.settings import RetrieverSettings
from clozerec_retriever.wire import RowMessages

SERVICE_NAME = "clozerec.v1.RetrieverService"


def build(bundle: Bundle, settings: RetrieverSettings) -> RetrieverServicer:
    """A servicer that answers from a verified bundle.

    Raises:
        BadBundle: a file is not what the manifest says.
    """
    return RetrieverServicer(Retriever.open(bundle), settings.search_threads)


class RetrieverServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Answers from one loaded bundle."""

    def __init__(self, retriever: Retriever, search_threads: int) -> None:
        self._retriever = retriever
        self._rows = RowMessages(retriever.catalogue)
        # OpenMP's setting belongs to the thread that makes it. One search gains nothing from more threads, and idle
        # ones would spin beside the other searches.
        self._workers = Workers("retriever", search_threads, on_start=lambda: faiss.omp_set_num_threads(1))

    def service(self) -> Service:
        """What a server needs to host it."""
        return Service(
            SERVICE_NAME, lambda server: retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(self, server)
        )

    async def Search(self, request: retriever_pb2.SearchRequest, context: Any) -> retriever_pb2.SearchResponse:
        return await self._workers.run(lambda: self._search(request))

    async def ListPopular(
        self, request: retriever_pb2.ListPopularRequest, context: Any
    ) -> retriever_pb2.ListPopularResponse:
        return await self._workers.run(lambda: self._list_popular(request))

    async def GetItems(
        self, request: retriever_pb2.RetrieverServiceGetItemsRequest, context: Any
    ) -> retriever_pb2.RetrieverServiceGetItemsResponse:
        return await self._workers.run(lambda: self._get_items(request))

    async def UpsertItems(
        self, request: retriever_pb2.RetrieverServiceUpsertItemsRequest, context: Any
    ) -> retriever_pb2.RetrieverServiceUpsertItemsResponse:
        raise NotImplementedYet("UpsertItems")

    async def DeleteItems(
        self, request: retriever_pb2.RetrieverServiceDeleteItemsRequest, context: Any
    ) -> retriever_pb2.RetrieverServiceDeleteItemsResponse:
        raise NotImplementedYet("DeleteItems")

    async def CreateSnapshot(
        self, request: retriever_pb2.CreateSnapshotRequest, context: Any
    ) -> retriever_pb2.CreateSnapshotResponse:
        raise NotImplementedYet("CreateSnapshot")

    async def GetIndexInfo(
        self, request: retriever_pb2.GetIndexInfoRequest, context: Any
    ) -> retriever_pb2.GetIndexInfoResponse:
        manifest = self._retriever.manifest
        return retriever_pb2.GetIndexInfoResponse(
            bundle_id=manifest.bundle_id,
            num_items=manifest.model.num_items,
            dim=manifest.model.dim,
            columns=columns_to_wire(self._retriever.catalogue.schema),
            default_top_k=manifest.serving.top_k_results,
        )

    def close(self) -> None:
        """Stop the workers once no call is under way."""
        self._workers.close()

    def _search(self, request: retriever_pb2.SearchRequest) -> retriever_pb2.SearchResponse:
        retriever = self._retriever
        retriever.check_bundle(request.bundle_id)
        if bool(request.intent) == bool(request.item_id):
            raise BadRequest.of("intent", "send exactly one of intent and item_id")
        if request.intent and not request.bundle_id:
            raise BadRequest.of("bundle_id", "name the bundle that intent comes from; spaces of two must not mix")
        fields = retriever.metadata_fields(request.metadata_fields)
        selection = self._selection(request)
        if request.item_id:
            found = retriever.search_by_item(request.item_id, selection)
        else:
            found = retriever.search_by_vector(np.array(request.intent, np.float32), selection)
        return retriever_pb2.SearchResponse(
            bundle_id=retriever.bundle_id,
            candidates=self._candidates(found, fields, request.include_vectors),
            exhausted=found.exhausted,
            vectorless_item=found.vectorless_item,
        )

    def _list_popular(self, request: retriever_pb2.ListPopularRequest) -> retriever_pb2.ListPopularResponse:
        retriever = self._retriever
        retriever.check_bundle(request.bundle_id)
        fields = retriever.metadata_fields(request.metadata_fields)
        found = retriever.popular(self._selection(request))
        return retriever_pb2.ListPopularResponse(
            bundle_id=retriever.bundle_id,
            candidates=self._rows.candidates(found.ranking, fields),
            exhausted=found.exhausted,
        )

    def _get_items(
        self, request: retriever_pb2.RetrieverServiceGetItemsRequest
    ) -> retriever_pb2.RetrieverServiceGetItemsResponse:
        retriever = self._retriever
        retriever.check_bundle(request.bundle_id)
        fields = retriever.metadata_fields(request.metadata_fields)
        response = retriever_pb2.RetrieverServiceGetItemsResponse(bundle_id=retriever.bundle_id)
        for item_id, row in zip(request.item_ids, retriever.rows(request.item_ids), strict=True):
            if row is None:
                response.items.add(item_id=item_id)
                continue
            item = response.items.add()
            item.CopyFrom(self._rows.stored_item(row, fields))
            if request.include_content:
                item.content.extend(retriever.content(row).tolist())
        return response

    def _candidates(
        self, found: Found, fields: tuple[str, ...], include_vectors: bool
    ) -> list[retriever_pb2.Candidate]:
        messages = self._rows.candidates(found.ranking, fields)
        for message in messages if include_vectors else ():
            vector = self._retriever.vector(message.row)
            assert vector is not None, "a search finds items with a vector only"
            message.vector.extend(vector.tolist())
        return messages

    def _selection(self, request: retriever_pb2.SearchRequest | retriever_pb2.ListPopularRequest) -> Selection:
        return Selection(
            top_k=request.top_k,
            where=filter_from_wire(request.filter, self._retriever.catalogue.schema),
            exclude_item_ids=request.exclude_item_ids,
            after=_place(request.after) if request.HasField("after") else None,
        )


def _place(cursor: retriever_pb2.Cursor) -> Place:
    if not math.isfinite(cursor.score):
        raise BadRequest.of("after.score", "expected the score of a candidate")
    return Place(cursor.score, cursor.row)
