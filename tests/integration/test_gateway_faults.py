"""What the gateway answers when a part of the system is gone, frozen or slow, and that it recovers by itself.

Parts are real servers on real channels. A frozen one is a socket that accepts and never answers, as a process under
SIGSTOP does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import toy_world
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from redis_server import redis_server

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_cli.serving import encoder_server, gateway_server, retriever_server
from clozerec_core import metrics
from clozerec_core.bundle import Bundle
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.circuit import FAILURES_TO_OPEN
from clozerec_gateway.servicer import SERVICE_NAME
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings
from integration.conftest import TIMEOUT_S, Gateway

DEADLINE_S = 2.0
DEGRADED, POPULARITY = recommender_pb2.FALLBACK_DEGRADED, recommender_pb2.FALLBACK_POPULARITY
NONE, SESSION_ONLY = recommender_pb2.FALLBACK_NONE, recommender_pb2.FALLBACK_SESSION_ONLY
SHOPPER = "user-3"
EVERY_TYPE: list[dict[str, Any]] = [
    {"query_type": "item_to_item", "item_id": "e"},
    {"query_type": "user_to_item", "user_id": SHOPPER},
    {"query_type": "contextual", "user_id": SHOPPER, "item_id": "d"},
    {"query_type": "sequential", "session_items": ["a", "b", "c"]},
]


class Relay:
    """A port in front of a server: passes bytes on, holds them (frozen), or refuses connections (gone).

    It accepts by itself: one that comes while `asyncio.start_server` closes, or as `sock_accept` is cancelled, is lost
    and left open.
    """

    def __init__(self) -> None:
        self.mode = "pass"
        self.port = 0
        self.target = 0
        self._listener: socket.socket | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()

    async def listen(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    async def vanish(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def close(self) -> None:
        self.thaw()
        await self.vanish()

    def _accept(self, listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        link = asyncio.create_task(self._link(accepted))
        link.add_done_callback(lambda _: accepted.close())  # also of one that never began
        link.add_done_callback(self._links.discard)
        self._links.add(link)

    async def _link(self, accepted: socket.socket) -> None:
        writers = []
        try:
            reader, writer = await asyncio.open_connection(sock=accepted)
            writers.append(writer)
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(back)
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        except OSError:
            pass  # the server is gone: so is the connection
        finally:
            for each in writers:
                each.transport.abort()
            await asyncio.gather(*(each.wait_closed() for each in writers), return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._thawed.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@dataclass
class World:
    """A gateway whose dependencies can be taken away."""

    gateway: Gateway
    encoder: Relay
    retriever: Relay

    async def ask(self, **query: Any) -> recommender_pb2.RecommendResponse:
        """An answer within the caller's deadline."""
        request = recommender_pb2.RecommendRequest(
            **query | {"query_type": f"QUERY_TYPE_{query['query_type'].upper()}"}
        )
        async with grpc.aio.insecure_channel(self.gateway.target) as channel:
            return await RecommenderServiceStub(channel).Recommend(request, timeout=DEADLINE_S)

    async def until(self, holds: Callable[[recommender_pb2.RecommendResponse], bool], **query: Any) -> None:
        """Ask again until the answer is as it should be; the test's own time limit ends what never comes."""
        while not holds(await self.ask(**query)):
            pass


@asynccontextmanager
async def world(bundle: Bundle, state_dir: Path, **changes: Any) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        encoder_port = await stack.enter_async_context(
            encoder_server(bundle, EncoderSettings(bundle=bundle.path, grpc_port=0, grace_s=0))
        )
        retriever_port = await stack.enter_async_context(
            retriever_server(bundle, RetrieverSettings(bundle=bundle.path, grpc_port=0, grace_s=0, state_dir=state_dir))
        )
        relays = Relay(), Relay()
        for relay, port in zip(relays, (encoder_port, retriever_port), strict=True):
            await relay.listen(port)
            stack.push_async_callback(relay.close)
        settings = GatewaySettings(
            bundle=bundle.path,
            grpc_port=0,
            http_port=0,
            grace_s=0,
            state_dir=state_dir,
            encoder_target=f"127.0.0.1:{relays[0].port}",
            retriever_target=f"127.0.0.1:{relays[1].port}",
            **{"encoder_timeout_s": 0.3, "retriever_timeout_s": 0.3} | changes,
        )
        ports = await stack.enter_async_context(gateway_server(bundle, settings))
        yield World(Gateway(bundle, f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}"), relays[0], relays[1])


def counted(fallback: str, missing: str) -> float:
    value: float = metrics.GATEWAY_FALLBACKS.labels(fallback, missing)._value.get()
    return value


async def refusal(call: Any) -> tuple[grpc.StatusCode, bool]:
    """Code, and whether the caller is told when to come back."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = rpc_status.from_call(caught.value).details
    return caught.value.code(), any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)


async def take_away(relay: Relay, how: str) -> None:
    if how == "frozen":
        relay.freeze()
    else:
        await relay.vanish()


async def bring_back(relay: Relay, how: str) -> None:
    if how == "frozen":
        relay.thaw()
    else:
        await relay.listen(relay.target)


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_without_the_encoder_answers_are_similar_to_the_last_item(
    toy_bundle: Bundle, tmp_path: Path, how: str
) -> None:
    async with world(toy_bundle, tmp_path) as parts:
        before = counted("degraded", "encoder")
        await take_away(parts.encoder, how)
        answer = await parts.ask(query_type="sequential", session_items=["a", "b", "c"], exclude_item_ids=["p"])
        similar = await parts.ask(query_type="item_to_item", item_id="c", exclude_item_ids=["a", "b", "p"])
        assert answer.fallback == DEGRADED
        assert similar.fallback == NONE
        assert list(answer.items) == list(similar.items)
        gap = await parts.ask(query_type="sequential", session_items=["e", "g"], mask_index=1)
        assert list(gap.items) == list(
            (await parts.ask(query_type="item_to_item", item_id="e", exclude_item_ids=["g"])).items
        )
        person = await parts.ask(query_type="user_to_item", user_id=SHOPPER)
        assert person.fallback == DEGRADED
        context = await parts.ask(query_type="contextual", user_id=SHOPPER, item_id="d")
        assert context.fallback == DEGRADED
        assert (await parts.ask(query_type="user_to_item", user_id="nobody")).fallback == POPULARITY
        assert counted("degraded", "encoder") == before + 4
        await bring_back(parts.encoder, how)
        await parts.until(lambda answer: answer.fallback == NONE, **EVERY_TYPE[3])


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_without_the_retriever_popularity_is_kept(toy_bundle: Bundle, tmp_path: Path, how: str) -> None:
    async with world(toy_bundle, tmp_path) as parts:
        post = parts.gateway.post
        await post("/v1/items:delete", {"item_ids": ["d"]})
        await post("/v1/items:upsert", {"items": [{"item_id": "a", "metadata": {"in_stock": False}}],
                                        "update_mask": "in_stock"})  # fmt: skip
        await post("/v1/items:upsert", {"items": [{"item_id": "new", "metadata": {"in_stock": True}}]})
        queries = [
            {"query_type": "user_to_item", "user_id": "nobody", "top_k": 100},
            {"query_type": "user_to_item", "user_id": "nobody", "top_k": 4, "metadata_fields": ["year", "genres"]},
            {"query_type": "user_to_item", "user_id": "nobody", "top_k": 100, "metadata_fields": ["in_stock"]},
        ]
        with_retriever = [await parts.ask(**query) for query in queries]
        filters = {"filters": {"meta.in_stock": True}}
        _, filtered, _ = await post("/v1/recommend", queries[0] | filters)
        await take_away(parts.retriever, how)
        for query, expected in zip(queries, with_retriever, strict=True):
            answer = await parts.ask(**query)
            assert list(answer.items) == list(expected.items)
            assert answer.exhausted == expected.exhausted
        assert "d" not in [item.item_id for item in with_retriever[0].items]
        added = answer.items[-1]
        assert (added.item_id, dict(added.metadata)) == ("new", {"in_stock": True})
        _, also_filtered, _ = await post("/v1/recommend", queries[0] | filters)
        assert also_filtered["items"] == filtered["items"]
        for query in EVERY_TYPE[:2] + EVERY_TYPE[3:]:
            answer = await parts.ask(**query)
            assert answer.fallback == POPULARITY
            assert {item.source for item in answer.items} == {recommender_pb2.SOURCE_POPULARITY}
        for item_id in ("nobody-knows-it", "d"):
            code, _ = await refusal(parts.ask(query_type="item_to_item", item_id=item_id))
            assert code is grpc.StatusCode.NOT_FOUND
        first = await parts.ask(**queries[0] | {"top_k": 5})
        second = await parts.ask(**queries[0] | {"top_k": 5}, page_token=first.next_page_token)
        assert [*first.items, *second.items] == list(with_retriever[0].items)[:10]
        await bring_back(parts.retriever, how)
        await parts.until(lambda answer: answer.fallback == NONE, **EVERY_TYPE[0])


async def test_with_neither_there_is_still_an_answer_of_every_type(toy_bundle: Bundle, tmp_path: Path) -> None:
    async with world(toy_bundle, tmp_path) as parts:
        parts.encoder.freeze()
        parts.retriever.freeze()
        for query in EVERY_TYPE:
            answer = await parts.ask(**query)
            assert answer.fallback == POPULARITY
            assert answer.items


@pytest.mark.parametrize("frozen", ["encoder", "retriever", "encoder and retriever"])
async def test_a_deadline_of_half_a_dependencys_own_time_is_kept_whatever_is_frozen(
    toy_text_bundle: Bundle, tmp_path: Path, frozen: str
) -> None:
    """As 0.5 s beside the default limits, all of them four times as long: what a busy machine adds is no fault."""
    defaults = GatewaySettings.model_fields
    patient = {
        name: 4 * defaults[name].default for name in ("encoder_timeout_s", "retriever_timeout_s", "history_timeout_s")
    }
    assert DEADLINE_S == 4 * 0.5
    async with world(toy_text_bundle, tmp_path, **patient) as parts:
        await parts.gateway.post("/v1/items:upsert", {"items": [{"item_id": "kettle", "text": "steel tea kettle"}]})
        events = [{"user_id": "guest", "item_id": item_id} for item_id in ("a", "kettle")]
        await parts.gateway.post("/v1/interactions", {"interactions": events})
        for part in frozen.split(" and "):
            getattr(parts, part).freeze()
        # At once, but fewer than it takes to give up waiting together; nobody has looked the added item up before.
        queries = (
            {"query_type": "item_to_item", "item_id": "e"},
            {"query_type": "user_to_item", "user_id": "guest"},
            {"query_type": "contextual", "user_id": "guest", "item_id": "kettle"},
            {"query_type": "sequential", "session_items": ["a", "kettle"], "explain": True, "diversity": 0.5},
        )
        answers = await asyncio.gather(*(parts.ask(**query) for query in queries))
        expected = [NONE, DEGRADED, DEGRADED, DEGRADED] if frozen == "encoder" else [POPULARITY] * 4
        assert [answer.fallback for answer in answers] == expected
        assert all(answer.items for answer in answers)


async def test_a_text_that_only_the_encoder_can_read_is_unavailable_with_a_time_to_retry(
    toy_text_bundle: Bundle, tmp_path: Path
) -> None:
    async with world(toy_text_bundle, tmp_path) as parts:
        parts.encoder.freeze()
        for query in (
            {"query_type": "item_to_item", "item_text": "a lamp"},
            {"query_type": "contextual", "user_id": SHOPPER, "item_id": "new", "item_text": "a lamp"},
        ):
            assert await refusal(parts.ask(**query)) == (grpc.StatusCode.UNAVAILABLE, True)
        status, document, _ = await parts.gateway.post(
            "/v1/items:upsert", {"items": [{"item_id": "x", "text": "a lamp"}]}
        )
        assert (status, document["results"][0]["status"]["code"]) == (200, grpc.StatusCode.UNAVAILABLE.value[0])


async def test_after_some_failures_nobody_waits_any_more(toy_bundle: Bundle, tmp_path: Path) -> None:
    async with world(toy_bundle, tmp_path) as parts:
        parts.encoder.freeze()
        for _ in range(FAILURES_TO_OPEN):
            assert (await parts.ask(**EVERY_TYPE[3])).fallback == DEGRADED
        started = time.monotonic()
        answers = await asyncio.gather(*(parts.ask(**EVERY_TYPE[3]) for _ in range(20)))
        assert {answer.fallback for answer in answers} == {DEGRADED}
        # Twenty waits for a frozen encoder, one after the other or in a queue, would take longer than its time limit
        # for a single one; with the circuit open at most one call tries.
        assert time.monotonic() - started < 20 * 0.3


async def test_callers_over_http_who_hang_up_leave_their_places(toy_bundle: Bundle, tmp_path: Path) -> None:
    patient = {"encoder_timeout_s": 60.0, "default_timeout_s": 60.0, "max_in_flight": 2}
    async with world(toy_bundle, tmp_path, **patient) as parts:
        parts.encoder.freeze()
        body = json.dumps({"query_type": "sequential", "session_items": ["a", "b"]})
        head = f"POST /v1/recommend HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n"
        writers = []
        for _ in range(2):
            _, writer = await asyncio.open_connection("127.0.0.1", int(parts.gateway.url.rsplit(":")[-1]))
            writer.write((head + body).encode())
            writers.append(writer)
        similar = {"query_type": "item_to_item", "item_id": "a"}  # needs no encoder
        cancelled = metrics.GRPC_SERVER_HANDLED.labels("json", SERVICE_NAME, "Recommend", "CANCELLED")
        before = cancelled._value.get()
        async with asyncio.timeout(TIMEOUT_S):
            while (await parts.gateway.post("/v1/recommend", similar))[0] != 429:
                pass
            for writer in writers:
                writer.close()
            while (await parts.gateway.post("/v1/recommend", similar))[0] != 200:
                pass
        assert cancelled._value.get() == before + 2


@pytest.mark.parametrize("frozen", ["encoder", "retriever"])
async def test_who_waits_for_a_frozen_part_fills_no_gateway(toy_bundle: Bundle, tmp_path: Path, frozen: str) -> None:
    """Fifty calls a second, each of which could wait for a second, and a gateway that takes thirty at once."""
    patient = {"encoder_timeout_s": 1.0, "retriever_timeout_s": 1.0, "max_in_flight": 30}
    async with world(toy_bundle, tmp_path, **patient) as parts:
        getattr(parts, frozen).freeze()
        async with grpc.aio.insecure_channel(parts.gateway.target) as channel:
            stub = RecommenderServiceStub(channel)
            request = recommender_pb2.RecommendRequest(
                query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a", "b", "c"]
            )
            calls = []
            for _ in range(75):
                calls.append(stub.Recommend(request, timeout=DEADLINE_S))
                await asyncio.sleep(0.02)
            answers = await asyncio.gather(*calls)
        assert {answer.fallback for answer in answers} == {DEGRADED if frozen == "encoder" else POPULARITY}
        getattr(parts, frozen).thaw()
        await parts.until(lambda answer: answer.fallback == NONE, **EVERY_TYPE[3])


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_without_the_history_store_the_session_or_popularity_answers(
    toy_bundle: Bundle, tmp_path: Path, how: str
) -> None:
    with redis_server(tmp_path / "redis") as redis:
        async with world(toy_bundle, tmp_path / "state", redis_url=redis.url, history_timeout_s=0.2) as parts:
            sessions = {"query_type": "sequential", "session_items": ["a", "b", "c"]}
            plain = await parts.ask(**sessions)
            alone = await parts.ask(query_type="contextual", user_id="nobody", item_id="d")
            event = {"user_id": SHOPPER, "item_id": "p", "event_id": "1"}
            await parts.gateway.post("/v1/interactions", {"interactions": [event]})
            redis.freeze() if how == "frozen" else redis.kill()
            answer = await parts.ask(query_type="user_to_item", user_id=SHOPPER)
            assert answer.fallback == POPULARITY
            answer = await parts.ask(query_type="contextual", user_id=SHOPPER, item_id="d")
            assert (answer.fallback, list(answer.items)) == (DEGRADED, list(alone.items))
            answer = await parts.ask(**sessions, user_id=SHOPPER)
            assert (answer.fallback, list(answer.items)) == (DEGRADED, list(plain.items))
            assert (await parts.ask(**sessions)).fallback == NONE
            status, document, _ = await parts.gateway.post("/v1/interactions", {"interactions": [event]})
            assert (status, document["error"]["code"]) == (503, "UNAVAILABLE")
            if how == "frozen":
                redis.thaw()
                await parts.until(lambda answer: answer.fallback == NONE, query_type="user_to_item", user_id=SHOPPER)
                ids = await parts.ask(query_type="item_to_item", item_id="e", user_id=SHOPPER, top_k=100)
                assert "p" not in [item.item_id for item in ids.items]


async def test_deletions_are_remembered_over_a_restart_without_the_retriever(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    async with world(toy_bundle, tmp_path) as parts:
        await parts.gateway.post("/v1/items:delete", {"item_ids": ["d"]})
    async with world(toy_bundle, tmp_path) as parts:
        await parts.retriever.vanish()
        answer = await parts.ask(query_type="user_to_item", user_id="nobody", top_k=100)
        assert {item.item_id for item in answer.items} == set(toy_world.ITEM_IDS) - {"d"}
