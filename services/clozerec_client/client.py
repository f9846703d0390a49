"""The two clients: the same calls, one for threads and one for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_client import messages
from clozerec_client.messages import Event, Item, NewItem, Outcome, QueryType, Recommendation, ServiceInfo
from clozerec_client.transport import (
    IDLE_TIMEOUT_S,
    OPTIONS,
    TIMEOUT_S,
    WRITE_TIMEOUT_S,
    ClozerecRefused,
    metadata,
    nothing_came,
)


class Client:
    """Calls a gateway; may be shared by threads. Close it, or use it as a context."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        """
        Args:
            target: `host:port` of a gateway, or a name that resolves to several.
            credentials: of a TLS channel; None: plain text.
            token: a bearer token, where the gateway wants one.
            timeout_s: seconds for a query.
            write_timeout_s: seconds for a change.
        """
        self._channel = (
            grpc.insecure_channel(target, OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, OPTIONS)
        )
        self._stub = RecommenderServiceStub(self._channel)
        self._metadata = metadata(token)
        self._timeout_s = timeout_s
        self._write_timeout_s = write_timeout_s

    def recommend(self, query_type: QueryType, **fields: Any) -> Recommendation:
        """Answer a query; fields are named as in the proto, `filters` is a dict.

        Raises:
            ClozerecRefused: what the gateway said, or that none answered.
        """
        request = messages.query_to_wire(query_type, fields)
        return messages.answer_from_wire(self._call(self._stub.Recommend, request, self._timeout_s))

    def record(self, events: Sequence[Event]) -> list[Outcome]:
        """Record 1 to 1,000 events; an outcome for each."""
        response = self._call(self._stub.RecordInteractions, messages.events_to_wire(events), self._write_timeout_s)
        return [messages.outcome(each.event_id, each.status) for each in response.statuses]

    def upsert_items(self, items: Sequence[NewItem], update_mask: Sequence[str] | None = None) -> list[Outcome]:
        """Add or change 1 to 1,000 items; an outcome for each."""
        request = messages.items_to_wire(items, update_mask)
        response = self._call(self._stub.UpsertItems, request, self._write_timeout_s)
        return [messages.outcome(each.item_id, each.status, each.text_truncated) for each in response.results]

    def delete_items(self, item_ids: Sequence[str]) -> list[Outcome]:
        """Remove 1 to 1,000 items; an outcome for each."""
        request = recommender_pb2.DeleteItemsRequest(item_ids=messages.listed("item_ids", item_ids))
        response = self._call(self._stub.DeleteItems, request, self._write_timeout_s)
        return [messages.outcome(each.item_id, each.status) for each in response.results]

    def get_items(self, item_ids: Sequence[str], metadata_fields: Sequence[str] = ()) -> list[Item]:
        """Those of the items that are known, with these columns; none named: all."""
        request = messages.lookup_to_wire(item_ids, metadata_fields)
        return messages.items_from_wire(self._call(self._stub.GetItems, request, self._timeout_s))

    def delete_user(self, user_id: str) -> str:
        """Forget a person; says what remains of them until the next training, nothing where that is nothing."""
        request = recommender_pb2.DeleteUserRequest(user_id=user_id)
        remains: str = self._call(self._stub.DeleteUser, request, self._write_timeout_s).remains
        return remains

    def info(self) -> ServiceInfo:
        """What is served: bundles, catalogue, limits."""
        request = recommender_pb2.GetServiceInfoRequest()
        return messages.info_from_wire(self._call(self._stub.GetServiceInfo, request, self._timeout_s))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise ClozerecRefused(error) from None


class AsyncClient:
    """Calls a gateway from asyncio. Close it, or use it as a context."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        """As for `Client`; to be made inside the event loop."""
        self._channel = (
            grpc.aio.insecure_channel(target, OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, OPTIONS)
        )
        self._stub = RecommenderServiceStub(self._channel)
        self._metadata = metadata(token)
        self._timeout_s = timeout_s
        self._write_timeout_s = write_timeout_s

    async def recommend(self, query_type: QueryType, **fields: Any) -> Recommendation:
        """See `Client.recommend`."""
        request = messages.query_to_wire(query_type, fields)
        return messages.answer_from_wire(await self._call(self._stub.Recommend, request, self._timeout_s))

    async def recommend_many(
        self, queries: AsyncIterable[tuple[QueryType, dict[str, Any]]], *, idle_timeout_s: float = IDLE_TIMEOUT_S
    ) -> AsyncGenerator[Recommendation | Outcome, None]:
        """Answer a stream of queries in their order; one that is refused brings an Outcome without an id.

        What `queries` raises, or a query that cannot be sent, is raised here after the answers to those before it.
        Whoever stops reading stops the stream.

        Args:
            queries: types and fields, as for `recommend`.
            idle_timeout_s: seconds without an answer while one is due; the stream may take as long as it likes.

        Raises:
            ClozerecRefused: what the gateway said of the whole stream, or that it has gone silent.
        """
        num_due = 0
        reading: asyncio.Timeout | None = None
        fault: Exception | None = None
        now = asyncio.get_running_loop().time

        def expect_one_more() -> None:
            nonlocal num_due
            num_due += 1
            if reading is not None and reading.when() is None:
                reading.reschedule(now() + idle_timeout_s)

        async def requests() -> AsyncIterator[recommender_pb2.RecommendRequest]:
            nonlocal fault
            try:
                async for query_type, fields in queries:
                    request = messages.query_to_wire(query_type, fields)
                    expect_one_more()
                    yield request
            except Exception as error:  # noqa: BLE001  # gRPC would keep it to itself and cancel the call
                fault = error
            expect_one_more()  # the end of the answers

        call: Any = self._stub.RecommendStream(requests(), metadata=self._metadata)
        try:
            while True:
                async with asyncio.timeout(idle_timeout_s if num_due else None) as reading:
                    result = await call.read()
                reading = None
                num_due -= 1
                if result is grpc.aio.EOF:
                    break
                if result.WhichOneof("result") == "response":
                    yield messages.answer_from_wire(result.response)
                else:
                    yield messages.outcome("", result.status)
        except TimeoutError:
            raise nothing_came(idle_timeout_s) from None
        except grpc.aio.AioRpcError as error:
            raise ClozerecRefused(error) from None
        finally:
            reading = None
            call.cancel()
        if fault is not None:
            raise fault

    async def record(self, events: Sequence[Event]) -> list[Outcome]:
        """See `Client.record`."""
        request = messages.events_to_wire(events)
        response = await self._call(self._stub.RecordInteractions, request, self._write_timeout_s)
        return [messages.outcome(each.event_id, each.status) for each in response.statuses]

    async def upsert_items(self, items: Sequence[NewItem], update_mask: Sequence[str] | None = None) -> list[Outcome]:
        """See `Client.upsert_items`."""
        request = messages.items_to_wire(items, update_mask)
        response = await self._call(self._stub.UpsertItems, request, self._write_timeout_s)
        return [messages.outcome(each.item_id, each.status, each.text_truncated) for each in response.results]

    async def delete_items(self, item_ids: Sequence[str]) -> list[Outcome]:
        """See `Client.delete_items`."""
        request = recommender_pb2.DeleteItemsRequest(item_ids=messages.listed("item_ids", item_ids))
        response = await self._call(self._stub.DeleteItems, request, self._write_timeout_s)
        return [messages.outcome(each.item_id, each.status) for each in response.results]

    async def get_items(self, item_ids: Sequence[str], metadata_fields: Sequence[str] = ()) -> list[Item]:
        """See `Client.get_items`."""
        request = messages.lookup_to_wire(item_ids, metadata_fields)
        return messages.items_from_wire(await self._call(self._stub.GetItems, request, self._timeout_s))

    async def delete_user(self, user_id: str) -> str:
        """See `Client.delete_user`."""
        request = recommender_pb2.DeleteUserRequest(user_id=user_id)
        remains: str = (await self._call(self._stub.DeleteUser, request, self._write_timeout_s)).remains
        return remains

    async def info(self) -> ServiceInfo:
        """See `Client.info`."""
        request = recommender_pb2.GetServiceInfoRequest()
        return messages.info_from_wire(await self._call(self._stub.GetServiceInfo, request, self._timeout_s))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise ClozerecRefused(error) from None
