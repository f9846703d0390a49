"""What stands between callers and the answering servicer: the A/B split, and the counting of answers and hits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from clozerec.v1 import recommender_pb2, recommender_pb2_grpc
from clozerec_core.access import AUTHORIZATION_KEY
from clozerec_core.rpc import Service
from clozerec_gateway.quality import QualityWatch
from clozerec_gateway.servicer import SERVICE_NAME, RecommenderServicer
from clozerec_gateway.split import Split


class WatchedServicer:
    """The same service: what is not defined here goes to the servicer behind it."""

    def __init__(self, inner: RecommenderServicer, quality: QualityWatch, split: Split | None) -> None:
        self._inner = inner
        self._quality = quality
        self._split = split

    def __getattr__(self, method: str) -> Any:
        return getattr(self._inner, method)

    def service(self) -> Service:
        """What a server needs to host it."""
        add = recommender_pb2_grpc.add_RecommenderServiceServicer_to_server
        return Service(SERVICE_NAME, lambda server: add(cast(RecommenderServicer, self), server))

    async def close(self) -> None:
        """Close the way to the other gateway."""
        if self._split is not None:
            await self._split.close()

    async def Recommend(
        self, request: recommender_pb2.RecommendRequest, context: Any
    ) -> recommender_pb2.RecommendResponse:
        elsewhere = await self._elsewhere(request, context)
        if elsewhere is not None:
            return elsewhere
        answer = await self._inner.Recommend(request, context)
        answer.recommendation_id = self._quality.given(answer)
        return answer

    async def RecommendStream(
        self, request_iterator: AsyncIterator[recommender_pb2.RecommendRequest], context: Any
    ) -> AsyncGenerator[recommender_pb2.RecommendResult, None]:
        async def answer(request: recommender_pb2.RecommendRequest) -> recommender_pb2.RecommendResponse:
            elsewhere = await self._elsewhere(request, context)
            if elsewhere is not None:
                return elsewhere
            response = await self._inner.answer(request)
            response.recommendation_id = self._quality.given(response)
            return response

        async with aclosing(self._inner.results(request_iterator, answer)) as results:
            async for result in results:
                yield result

    async def RecordInteractions(
        self, request: recommender_pb2.RecordInteractionsRequest, context: Any
    ) -> recommender_pb2.RecordInteractionsResponse:
        response = await self._inner.RecordInteractions(request, context)
        for event, outcome in zip(request.interactions, response.statuses, strict=True):
            if event.recommendation_id and outcome.status.code == 0:
                self._quality.taken(event.recommendation_id)
        return response

    async def _elsewhere(
        self, request: recommender_pb2.RecommendRequest, context: Any
    ) -> recommender_pb2.RecommendResponse | None:
        """The other gateway's answer, where the user is one of its share and it has one."""
        if self._split is None:
            return None
        token = dict(context.invocation_metadata() or ()).get(AUTHORIZATION_KEY)
        if token is not None and not (token.isascii() and token.isprintable()):
            # HTTP lets it through and gRPC does not; no token looks like that, so a gate here asks for none.
            token = None
        answer = await self._split.ask(request, token)
        if answer is not None:
            # Counted where it was answered; its hits may be reported here.
            self._quality.learn(answer.bundle_id)
        return answer
