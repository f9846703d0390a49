"""The A/B split and the counting of answers and hits, over real gateways."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from redis_server import RedisServer, redis_server

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_cli.serving import all_in_one
from clozerec_cli.settings import AllSettings
from clozerec_core import live_file, metrics
from clozerec_core.bundle import Bundle
from clozerec_core.errors import UsageError
from clozerec_gateway.circuit import FAILURES_TO_OPEN
from clozerec_gateway.quality import QualityWatch
from clozerec_gateway.split import SplitFile, is_drawn, open_split
from integration.conftest import TIMEOUT_S
from integration.test_gateway_faults import Relay

USERS = [f"user-{number}" for number in range(2000)]


@pytest.fixture(autouse=True)
def _look_at_files_on_every_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_file.LiveFiles.__init__, "__defaults__", (0.0,))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@asynccontextmanager
async def served(bundle: Bundle, **fields: object) -> AsyncIterator[str]:
    settings = AllSettings(bundle=bundle.path, grpc_port=0, http_port=0, grace_s=1, **fields)  # type: ignore[arg-type]
    async with all_in_one(bundle, settings) as ports:
        yield f"127.0.0.1:{ports.grpc}"


async def bundle_for(target: str, timeout_s: float = TIMEOUT_S, **fields: str) -> str:
    """Which bundle answers, and that it does so in full."""
    request = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a"], **fields)
    async with grpc.aio.insecure_channel(target) as channel:
        answer = await RecommenderServiceStub(channel).Recommend(request, timeout=timeout_s)
    assert answer.fallback == recommender_pb2.FALLBACK_NONE
    return str(answer.bundle_id)


@asynccontextmanager
async def relay_to(target: str) -> AsyncIterator[Relay]:
    """A way to a gateway that can be frozen."""
    relay = Relay()
    await relay.listen(int(target.rpartition(":")[2]))
    try:
        yield relay
    finally:
        await relay.close()


def drawn(share: float, salt: str = "") -> set[str]:
    split = SplitFile(target="x", share=share, salt=salt)
    return {user_id for user_id in USERS if is_drawn(user_id, split)}


async def test_a_split_that_cannot_speak_to_the_other_side_stops_the_start(tmp_path: Path, toy_bundle: Bundle) -> None:
    (tmp_path / "split.json").write_text(json.dumps({"target": "127.0.0.1:1", "share": 0.5}))
    settings = AllSettings(
        bundle=toy_bundle.path,
        split_path=tmp_path / "split.json",
        inner_ca_path=tmp_path / "missing.pem",
        redis_url="redis://127.0.0.1:1",
    )
    with pytest.raises(UsageError, match=r"missing\.pem"):
        open_split(settings)


def test_a_share_draws_its_share_and_growing_it_moves_nobody_back() -> None:
    assert drawn(0) == set()
    assert drawn(1) == set(USERS)
    assert 60 <= len(drawn(0.05)) <= 140
    assert drawn(0.05) < drawn(0.3) < drawn(0.8)
    assert len(drawn(0.5, "1") & drawn(0.5, "2")) < 600


async def test_users_are_answered_by_their_side_and_shares_change_live(
    toy_bundle: Bundle, toy_text_bundle: Bundle, tmp_path: Path, redis: RedisServer
) -> None:
    path = tmp_path / "split.json"
    a, b = toy_bundle.bundle_id, toy_text_bundle.bundle_id
    async with served(toy_text_bundle) as other:

        def write(share: float) -> None:
            path.write_text(json.dumps({"target": other, "share": share}))

        write(0.5)
        there = next(user_id for user_id in USERS if user_id in drawn(0.5))
        here = next(user_id for user_id in USERS if user_id not in drawn(0.5))
        async with served(toy_bundle, split_path=path, redis_url=redis.url) as target:
            assert await bundle_for(target, user_id=there) == b
            assert await bundle_for(target, user_id=here) == a
            assert await bundle_for(target) == a
            assert await bundle_for(target, user_id=there, bundle_id=a) == a
            write(0)
            assert await bundle_for(target, user_id=there) == a
            path.write_text("half a")
            assert await bundle_for(target, user_id=there) == a
            write(1)
            assert await bundle_for(target, user_id=here) == b


async def test_a_stream_is_split_by_request(
    toy_bundle: Bundle, toy_text_bundle: Bundle, tmp_path: Path, redis: RedisServer
) -> None:
    path = tmp_path / "split.json"
    async with served(toy_text_bundle) as other:
        path.write_text(json.dumps({"target": other, "share": 0.5}))
        async with (
            served(toy_bundle, split_path=path, redis_url=redis.url) as target,
            grpc.aio.insecure_channel(target) as channel,
        ):
            requests = [
                recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a"], user_id=user)
                for user in USERS[:40]
            ]
            results = RecommenderServiceStub(channel).RecommendStream(iter(requests), timeout=TIMEOUT_S)
            sides = [result.response.bundle_id async for result in results]
    there = drawn(0.5)
    assert sides == [(toy_text_bundle if user in there else toy_bundle).bundle_id for user in USERS[:40]]


async def test_when_the_other_side_is_gone_this_one_answers(
    toy_bundle: Bundle, tmp_path: Path, redis: RedisServer
) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"target": "127.0.0.1:1", "share": 1}')
    before = metrics.REGISTRY.get_sample_value("clozerec_gateway_split_requests_total", {"outcome": "fell_back"}) or 0
    async with served(toy_bundle, split_path=path, redis_url=redis.url) as target:
        assert await bundle_for(target, user_id="u") == toy_bundle.bundle_id
    after = metrics.REGISTRY.get_sample_value("clozerec_gateway_split_requests_total", {"outcome": "fell_back"})
    assert after == before + 1


async def test_a_request_under_way_keeps_its_side_when_the_target_changes(
    toy_bundle: Bundle, toy_text_bundle: Bundle, tmp_path: Path, redis: RedisServer
) -> None:
    path = tmp_path / "split.json"
    async with (
        served(toy_text_bundle) as first,
        served(toy_bundle, state_dir=tmp_path / "second") as second,
        relay_to(first) as relay,
    ):
        path.write_text(json.dumps({"target": f"127.0.0.1:{relay.port}", "share": 1}))
        relay.freeze()
        async with served(toy_bundle, split_path=path, redis_url=redis.url) as target:
            under_way = asyncio.ensure_future(bundle_for(target, user_id="u"))
            while not relay._links:
                await bundle_for(target)
            path.write_text(json.dumps({"target": second, "share": 1}))
            after = await asyncio.gather(*(bundle_for(target, user_id=f"v{number}") for number in range(4)))
            assert after == [toy_bundle.bundle_id] * 4
            relay.thaw()
            assert await under_way == toy_text_bundle.bundle_id
            while relay._links:  # nothing is left of the way there
                await bundle_for(target)


async def test_a_frozen_other_side_is_left_alone_and_found_again(
    toy_bundle: Bundle, toy_text_bundle: Bundle, tmp_path: Path, redis: RedisServer
) -> None:
    path = tmp_path / "split.json"
    a, b = toy_bundle.bundle_id, toy_text_bundle.bundle_id
    async with served(toy_text_bundle) as other, relay_to(other) as relay:
        path.write_text(json.dumps({"target": f"127.0.0.1:{relay.port}", "share": 1}))
        async with served(toy_bundle, split_path=path, redis_url=redis.url) as target:
            assert await bundle_for(target, user_id="u") == b
            relay.freeze()
            for _ in range(FAILURES_TO_OPEN):
                assert await bundle_for(target, timeout_s=2, user_id="u") == a
            # One of them may be the try that finds out; each by itself would wait for 3 of its 5 seconds.
            begun = time.monotonic()
            asked = [asyncio.ensure_future(bundle_for(target, timeout_s=5, user_id="u")) for _ in range(4)]
            assert await next(asyncio.as_completed(asked)) == a
            assert time.monotonic() - begun < 2.5
            assert set(await asyncio.gather(*asked)) == {a}
            relay.thaw()
            while await bundle_for(target, user_id="u") != b:
                pass


async def test_what_is_recorded_and_who_is_forgotten_here_holds_on_the_other_side(
    toy_bundle: Bundle, toy_text_bundle: Bundle, tmp_path: Path, redis: RedisServer
) -> None:
    path = tmp_path / "split.json"
    async with served(toy_text_bundle, redis_url=redis.url) as other:
        path.write_text(json.dumps({"target": other, "share": 1}))
        async with (
            served(toy_bundle, split_path=path, redis_url=redis.url) as target,
            grpc.aio.insecure_channel(target) as channel,
        ):
            stub = RecommenderServiceStub(channel)

            async def fallback(user_id: str) -> int:
                request = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_USER_TO_ITEM", user_id=user_id)
                answer = await stub.Recommend(request, timeout=TIMEOUT_S)
                assert answer.bundle_id == toy_text_bundle.bundle_id
                return answer.fallback

            assert await fallback("newcomer") == recommender_pb2.FALLBACK_POPULARITY
            event = recommender_pb2.RecordInteractionsRequest()
            event.interactions.add(user_id="newcomer", item_id="a")
            await stub.RecordInteractions(event, timeout=TIMEOUT_S)
            for user_id in ("newcomer", "user-3"):
                assert await fallback(user_id) == recommender_pb2.FALLBACK_NONE
                farewell = recommender_pb2.DeleteUserRequest(user_id=user_id)
                await stub.DeleteUser(farewell, timeout=TIMEOUT_S)
                assert await fallback(user_id) == recommender_pb2.FALLBACK_POPULARITY


async def test_a_split_without_a_shared_store_is_refused(toy_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"target": "127.0.0.1:1", "share": 1}')
    with pytest.raises(UsageError, match="CLOZEREC_SPLIT_PATH needs CLOZEREC_REDIS_URL"):
        async with served(toy_bundle, split_path=path):
            pass


def counted(name: str, bundle_id: str, query_type: str = "sequential", fallback: str = "none") -> float:
    labels = {"bundle_id": bundle_id, "query_type": query_type, "fallback": fallback}
    return metrics.REGISTRY.get_sample_value(f"clozerec_gateway_recommendations{name}_total", labels) or 0


def answer(bundle_id: str, *item_ids: str) -> recommender_pb2.RecommendResponse:
    return recommender_pb2.RecommendResponse(
        bundle_id=bundle_id,
        query_type="QUERY_TYPE_SEQUENTIAL",
        fallback="FALLBACK_NONE",
        items=[recommender_pb2.RecommendedItem(item_id=item_id, source="SOURCE_MODEL") for item_id in item_ids],
    )


def test_an_answer_counts_once_and_its_hit_once_whatever_is_taken() -> None:
    quality = QualityWatch()
    first, second = (quality.given(answer("quality-1", "a", "b")) for _ in range(2))
    assert first != second
    assert counted("", "quality-1") == 2
    for _ in range(3):
        quality.taken(first)
    assert counted("_taken", "quality-1") == 1


def test_another_gateway_attributes_a_hit_once_it_knows_the_bundle() -> None:
    given = QualityWatch().given(answer("quality-2", "a"))
    elsewhere = QualityWatch()
    elsewhere.learn("quality-2")
    elsewhere.taken(given)
    assert counted("_taken", "quality-2") == 1


@pytest.mark.parametrize("made_up", ["", "x", "0" * 32, "0" * 32 + "-00000000" + "99", "0" * 32 + "-zzzzzzzz11"])
def test_a_made_up_id_adds_no_label(made_up: str) -> None:
    before = metrics.exposition()
    QualityWatch().taken(made_up)
    assert len(metrics.exposition().splitlines()) == len(before.splitlines())


async def took(channel: grpc.aio.Channel, *recommendation_ids: str, item_id: str = "b") -> None:
    """Record an event for each answer that led to one."""
    request = recommender_pb2.RecordInteractionsRequest()
    for number, recommendation_id in enumerate(recommendation_ids):
        event = request.interactions.add(user_id=f"u{number}", item_id=item_id, recommendation_id=recommendation_id)
        event.time.GetCurrentTime()
    response = await RecommenderServiceStub(channel).RecordInteractions(request, timeout=TIMEOUT_S)
    assert [status.status.code for status in response.statuses] == [0] * len(recommendation_ids)


async def test_a_hit_rate_is_what_was_taken_over_what_was_given(toy_bundle: Bundle) -> None:
    """Four sessions and one unknown person are answered; two sessions and the person take something, one of them twice,
    and somebody takes something that nobody recommended."""
    bundle_id = toy_bundle.bundle_id
    session = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a"])
    nobody = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_USER_TO_ITEM", user_id="nobody")
    cases = (("sequential", "none"), ("user_to_item", "popularity"))

    def counts() -> list[float]:
        return [counted(name, bundle_id, *case) for case in cases for name in ("", "_taken")]

    before = counts()
    async with served(toy_bundle) as target, grpc.aio.insecure_channel(target) as channel:
        stub = RecommenderServiceStub(channel)
        sessions = [await stub.Recommend(session, timeout=TIMEOUT_S) for _ in range(3)]
        stream = stub.RecommendStream(iter([session]), timeout=TIMEOUT_S)
        sessions += [result.response async for result in stream]
        popular = await stub.Recommend(nobody, timeout=TIMEOUT_S)
        first, _, _, streamed = (answer.recommendation_id for answer in sessions)
        await took(channel, first, streamed, popular.recommendation_id, "")
        await took(channel, first, item_id="c")
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [4, 2, 1, 1]


async def test_hits_of_the_other_sides_answers_may_be_reported_here(
    toy_bundle: Bundle, toy_text_bundle: Bundle, tmp_path: Path, redis: RedisServer
) -> None:
    path = tmp_path / "split.json"
    before = counted("_taken", toy_text_bundle.bundle_id), counted("_taken", toy_bundle.bundle_id)
    async with served(toy_text_bundle) as other:
        path.write_text(json.dumps({"target": other, "share": 1}))
        async with (
            served(toy_bundle, split_path=path, redis_url=redis.url) as target,
            grpc.aio.insecure_channel(target) as channel,
        ):
            request = recommender_pb2.RecommendRequest(
                query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a"], user_id="u"
            )
            answer = await RecommenderServiceStub(channel).Recommend(request, timeout=TIMEOUT_S)
            await took(channel, answer.recommendation_id)
    after = counted("_taken", toy_text_bundle.bundle_id), counted("_taken", toy_bundle.bundle_id)
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)
