"""`clozerec.v1.RecommenderService` on the wire: messages to domain types and back, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from clozerec.v1 import recommender_pb2, recommender_pb2_grpc
from clozerec_core.errors import NotImplementedYet
from clozerec_core.rpc import Service
from clozerec_gateway.pipeline import Pipeline
from clozerec_gateway.wire import info_to_wire, items_to_wire, query_from_wire, recommendation_to_wire

SERVICE_NAME = "clozerec.v1.RecommenderService"
TEXT_TRUNCATED_KEY = "clozerec-text-truncated"


class RecommenderServicer(recommender_pb2_grpc.RecommenderServiceServicer):
    """Answers over gRPC; the JSON front calls it with a context of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._version = version("clozerec")

    def service(self) -> Service:
        """What a server needs to host it."""
        return Service(
            SERVICE_NAME, lambda server: recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(self, server)
        )

    async def Recommend(
        self, request: recommender_pb2.RecommendRequest, context: Any
    ) -> recommender_pb2.RecommendResponse:
        self._pipeline.check_bundle(request.bundle_id)
        answer = await self._pipeline.recommend(query_from_wire(request, self._pipeline.manifest.schema_))
        if answer.text_truncated:
            await context.send_initial_metadata(((TEXT_TRUNCATED_KEY, "true"),))
        return recommendation_to_wire(answer)

    async def GetItems(
        self, request: recommender_pb2.GetItemsRequest, context: Any
    ) -> recommender_pb2.GetItemsResponse:
        return items_to_wire(await self._pipeline.get_items(list(request.item_ids), list(request.metadata_fields)))

    async def GetServiceInfo(
        self, request: recommender_pb2.GetServiceInfoRequest, context: Any
    ) -> recommender_pb2.GetServiceInfoResponse:
        return info_to_wire(self._pipeline.manifest, self._version)

    async def RecommendStream(
        self, request_iterator: AsyncIterator[recommender_pb2.RecommendRequest], context: Any
    ) -> AsyncIterator[recommender_pb2.RecommendResult]:
        raise NotImplementedYet("RecommendStream")
        yield  # makes this a stream

    async def RecordInteractions(
        self, request: recommender_pb2.RecordInteractionsRequest, context: Any
    ) -> recommender_pb2.RecordInteractionsResponse:
        raise NotImplementedYet("RecordInteractions")

    async def UpsertItems(
        self, request: recommender_pb2.UpsertItemsRequest, context: Any
    ) -> recommender_pb2.UpsertItemsResponse:
        raise NotImplementedYet("UpsertItems")

    async def DeleteItems(
        self, request: recommender_pb2.DeleteItemsRequest, context: Any
    ) -> recommender_pb2.DeleteItemsResponse:
        raise NotImplementedYet("DeleteItems")

    async def DeleteUser(
        self, request: recommender_pb2.DeleteUserRequest, context: Any
    ) -> recommender_pb2.DeleteUserResponse:
        raise NotImplementedYet("DeleteUser")
