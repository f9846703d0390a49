"""The audit log's promise: a line for every write whose work began, also where nobody waited for its end."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from structlog.typing import EventDict

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core import metrics
from clozerec_core.access import new_token
from clozerec_core.bundle import Bundle
from clozerec_gateway.sqlite_events import HISTORIES_FILE
from integration.conftest import TIMEOUT_S, Gateway, running

SUPPORT, SUPPORTS_ENTRY = new_token("support", "admin")
HALF_A_REQUEST = (
    f"POST /v1/users:delete HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {SUPPORT}\r\nContent-Length: 40\r\n\r\n"
    '{"user_id": '
).encode()


@pytest_asyncio.fixture
async def gateway(toy_bundle: Bundle, tmp_path: Path) -> AsyncIterator[Gateway]:
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"tokens": [SUPPORTS_ENTRY]}))
    async with running(toy_bundle, "all in one", tokens_path=tokens, state_dir=tmp_path, grace_s=0) as started:
        yield started


def num_begun(grpc_type: str) -> float:
    labels = {"grpc_type": grpc_type, "grpc_service": "clozerec.v1.RecommenderService", "grpc_method": "DeleteUser"}
    return metrics.REGISTRY.get_sample_value("grpc_server_started_total", labels) or 0


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not is_so():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0)


def audited(said: list[EventDict]) -> list[tuple[str, str, str]]:
    return [(line["method"], line["caller"], line["code"]) for line in said if line["event"] == "audit"]


async def test_a_write_whose_caller_gives_up_over_grpc_is_audited(gateway: Gateway, tmp_path: Path) -> None:
    before = num_begun("unary")
    store = sqlite3.connect(tmp_path / HISTORIES_FILE)
    with capture_logs() as said:
        async with grpc.aio.insecure_channel(gateway.target) as channel:
            store.execute("BEGIN IMMEDIATE")  # the deletion waits for it
            call = RecommenderServiceStub(channel).DeleteUser(
                recommender_pb2.DeleteUserRequest(user_id="u"),
                timeout=TIMEOUT_S,
                metadata=(("authorization", f"Bearer {SUPPORT}"),),
            )
            sent = asyncio.ensure_future(call.code())
            await until(lambda: num_begun("unary") > before)
            call.cancel()
            await until(lambda: audited(said))
            store.close()
            assert await sent is grpc.StatusCode.CANCELLED
    assert audited(said) == [("DeleteUser", "support", "CANCELLED")]


async def half_sent(gateway: Gateway) -> asyncio.StreamWriter:
    """A deletion whose body does not end; it has begun."""
    before = num_begun("json")
    _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":")[-1]))
    writer.write(HALF_A_REQUEST)
    await until(lambda: num_begun("json") > before)
    return writer


async def test_a_write_whose_caller_goes_over_json_is_audited_and_no_fault_of_ours(gateway: Gateway) -> None:
    with capture_logs() as said:
        (await half_sent(gateway)).close()
        await until(lambda: audited(said))
    assert audited(said) == [("DeleteUser", "support", "CANCELLED")]
    assert "unexpected_error" not in [line["event"] for line in said]


async def test_a_write_that_is_broken_off_by_the_gateways_end_is_audited(toy_bundle: Bundle, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"tokens": [SUPPORTS_ENTRY]}))
    with capture_logs() as said:
        async with running(toy_bundle, "all in one", tokens_path=tokens, grace_s=0) as gateway:
            writer = await half_sent(gateway)
        await until(lambda: audited(said))
        writer.close()
    assert audited(said) == [("DeleteUser", "support", "CANCELLED")]


@pytest.mark.parametrize(
    ("token", "body", "caller", "code"),
    [
        (SUPPORT, {"user_id": "u"}, "support", "OK"),
        (SUPPORT, {"user_id": ""}, "support", "INVALID_ARGUMENT"),
        (SUPPORT, b" " * (16 * 1024 * 1024 + 1), "support", "RESOURCE_EXHAUSTED"),
        ("guessed", {"user_id": "u"}, None, "UNAUTHENTICATED"),
    ],
)
async def test_every_way_to_end_over_json_has_its_line(
    gateway: Gateway, token: str, body: object, caller: str | None, code: str
) -> None:
    with capture_logs() as said:
        await gateway.post("/v1/users:delete", body, Authorization=f"Bearer {token}")
    assert audited(said) == [("DeleteUser", caller, code)]
