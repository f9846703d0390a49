"""`clozerec.v1.RecommenderService` on the wire: messages to domain types and back, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

from clozerec.v1 import recommender_pb2, recommender_pb2_grpc
from clozerec_core.request_context import current_request, handling
from clozerec_core.rpc import Service
from clozerec_core.rpc_call import fare, in_time, log_failure
from clozerec_core.rpc_errors import to_status
from clozerec_gateway.loaded import LoadedBundles
from clozerec_gateway.paging import PageTokens
from clozerec_gateway.pipeline import Pipeline
from clozerec_gateway.recording import Recorder, now_us
from clozerec_gateway.streaming import answered_in_order
from clozerec_gateway.wire import (
    FilterReader,
    events_from_wire,
    farewell_to_wire,
    fingerprint,
    info_to_wire,
    inputs_from_wire,
    items_to_wire,
    outcomes_to_wire,
    query_from_wire,
    recommendation_to_wire,
    recorded_to_wire,
)

SERVICE_NAME = "clozerec.v1.RecommenderService"
TEXT_TRUNCATED_KEY = "clozerec-text-truncated"


class RecommenderServicer(recommender_pb2_grpc.RecommenderServiceServicer):
    """Answers over gRPC; the JSON front calls it with a context of its own."""

    def __init__(
        self, bundles: LoadedBundles, recorder: Recorder, tokens: PageTokens, default_timeout_s: float
    ) -> None:
        self._bundles = bundles
        self._recorder = recorder
        self._tokens = tokens
        self._default_timeout_s = default_timeout_s
        self._version = version("clozerec")
        self._filters: WeakKeyDictionary[Pipeline, FilterReader] = WeakKeyDictionary()

    def service(self) -> Service:
        """What a server needs to host it."""
        return Service(
            SERVICE_NAME, lambda server: recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(self, server)
        )

    async def Recommend(
        self, request: recommender_pb2.RecommendRequest, context: Any
    ) -> recommender_pb2.RecommendResponse:
        response, text_truncated = await self._recommend(request)
        if text_truncated:
            await context.send_initial_metadata(((TEXT_TRUNCATED_KEY, "true"),))
        return response

    async def RecommendStream(
        self, request_iterator: AsyncIterator[recommender_pb2.RecommendRequest], context: Any
    ) -> AsyncGenerator[recommender_pb2.RecommendResult, None]:
        async with aclosing(self.results(request_iterator, self.answer)) as results:
            async for result in results:
                yield result

    async def answer(self, request: recommender_pb2.RecommendRequest) -> recommender_pb2.RecommendResponse:
        """One answer, for callers without a context of their own."""
        return (await self._recommend(request))[0]

    async def results(
        self,
        requests: AsyncIterator[recommender_pb2.RecommendRequest],
        answer: Callable[[recommender_pb2.RecommendRequest], Coroutine[Any, Any, recommender_pb2.RecommendResponse]],
    ) -> AsyncGenerator[recommender_pb2.RecommendResult, None]:
        """An answer or its error for each request of a stream, each with a time of its own, in their order.

        Each costs its caller as much as a call, and is refused as a call would be: above the caller's rate, or once its
        token is good no more.
        """
        stream, pay = current_request(), fare()

        async def result_of(request: recommender_pb2.RecommendRequest) -> recommender_pb2.RecommendResult:
            remaining_s = stream.remaining_s()
            timeout_s = self._default_timeout_s if remaining_s is None else min(self._default_timeout_s, remaining_s)
            with handling(dict(stream.outgoing_metadata()), timeout_s):
                try:
                    pay()
                    response = await in_time(answer(request), timeout_s)
                except Exception as error:  # noqa: BLE001  # mapped to a status, whole in the log
                    status = to_status(error, stream.request_id)
                    log_failure(error, status.code, "RecommendStream")
                    return recommender_pb2.RecommendResult(status=status)
                return recommender_pb2.RecommendResult(response=response)

        async with aclosing(answered_in_order(requests, result_of)) as results:
            async for result in results:
                yield result

    async def RecordInteractions(
        self, request: recommender_pb2.RecordInteractionsRequest, context: Any
    ) -> recommender_pb2.RecordInteractionsResponse:
        events = events_from_wire(request, now_us())
        return recorded_to_wire(events, await self._recorder.record(events))

    async def UpsertItems(
        self, request: recommender_pb2.UpsertItemsRequest, context: Any
    ) -> recommender_pb2.UpsertItemsResponse:
        items, update_mask = inputs_from_wire(request)
        outcomes = await self._bundles.current.items.upsert(items, update_mask)
        return recommender_pb2.UpsertItemsResponse(results=outcomes_to_wire([item.item_id for item in items], outcomes))

    async def DeleteItems(
        self, request: recommender_pb2.DeleteItemsRequest, context: Any
    ) -> recommender_pb2.DeleteItemsResponse:
        item_ids = list(request.item_ids)
        outcomes = await self._bundles.current.items.delete(item_ids)
        return recommender_pb2.DeleteItemsResponse(results=outcomes_to_wire(item_ids, outcomes))

    async def GetItems(
        self, request: recommender_pb2.GetItemsRequest, context: Any
    ) -> recommender_pb2.GetItemsResponse:
        items = self._bundles.current.items
        return items_to_wire(await items.get(list(request.item_ids), list(request.metadata_fields)))

    async def DeleteUser(
        self, request: recommender_pb2.DeleteUserRequest, context: Any
    ) -> recommender_pb2.DeleteUserResponse:
        pipelines = self._bundles.pipelines
        histories = [(each.manifest.bundle_id, each.histories) for each in pipelines]
        with self._bundles.using(*pipelines):
            return farewell_to_wire(await self._recorder.forget(request.user_id, histories))

    async def GetServiceInfo(
        self, request: recommender_pb2.GetServiceInfoRequest, context: Any
    ) -> recommender_pb2.GetServiceInfoResponse:
        return info_to_wire([pipeline.manifest for pipeline in self._bundles.pipelines], self._version)

    async def _recommend(
        self, request: recommender_pb2.RecommendRequest
    ) -> tuple[recommender_pb2.RecommendResponse, bool]:
        """The answer, and whether a text in it was longer than the text engine reads."""
        pipeline, page = self._bundles.get(request.bundle_id), None
        if request.page_token:
            page = self._tokens.read(request.page_token, fingerprint(request))
            pipeline = self._bundles.of_page(page)
        filters = self._filters.get(pipeline)
        if filters is None:
            filters = self._filters[pipeline] = FilterReader(pipeline.manifest.schema_)
        with self._bundles.using(pipeline):
            answer = await pipeline.recommend(query_from_wire(request, filters), page)
        return recommendation_to_wire(answer), answer.text_truncated
