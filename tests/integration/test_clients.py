"""The Python client, and the snippets of docs/clients.md as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google.api
import grpc
import pytest
import pytest_asyncio

from clozerec_client import AsyncClient, Client, ClozerecRefused, Event, NewItem, Outcome, Recommendation
from clozerec_core.bundle import Bundle
from integration.conftest import TIMEOUT_S, Gateway, running
from integration.test_gateway_faults import Relay

ROOT = Path(__file__).resolve().parents[2]


@pytest_asyncio.fixture
async def gateway(toy_bundle: Bundle) -> AsyncIterator[Gateway]:
    async with running(toy_bundle, "all in one") as started:
        yield started


def snippets(language: str) -> list[str]:
    text = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


async def run(*command: str, cwd: Path, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=os.environ | variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_python_snippets_run_as_they_stand(gateway: Gateway, tmp_path: Path) -> None:
    with_threads, with_asyncio = (text.replace("127.0.0.1:50050", gateway.target) for text in snippets("python"))
    printed = (await run(sys.executable, "-c", with_threads, cwd=tmp_path)).splitlines()
    assert len(printed) == 4
    assert printed[-1] == "StatusCode.NOT_FOUND UNKNOWN_ITEM"
    printed = (await run(sys.executable, "-c", with_asyncio, cwd=tmp_path)).splitlines()
    assert printed[0].startswith("none ['Because of red running shoes'")


async def test_the_typescript_snippet_runs_as_it_stands(gateway: Gateway, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed (Debian: apt-get install nodejs npm)")
    (tmp_path / "client.ts").write_text(snippets("typescript")[0], encoding="utf-8")
    packages = ["@grpc/grpc-js@1", "@grpc/proto-loader@0.8", "typescript@5", "@types/node@22"]
    try:
        await run("npm", "install", "--silent", "--no-audit", "--no-fund", *packages, cwd=tmp_path)
    except AssertionError as error:
        pytest.skip(f"npm cannot reach its registry: {str(error)[:200]}")
    options = ["--module", "nodenext", "--moduleResolution", "nodenext", "--skipLibCheck", "--strict"]
    await run("npx", "tsc", *options, "client.ts", cwd=tmp_path)
    google_protos = Path(google.api.__path__[0]).parents[1]
    printed = await run(
        "node", "client.js", cwd=tmp_path, TARGET=gateway.target, PROTOS=str(ROOT / "protos"),
        GOOGLE_PROTOS=str(google_protos),
    )  # fmt: skip
    assert printed.split()[0] == "c"
    assert len(printed.splitlines()) == 3


async def test_every_call_of_both_clients_gives_plain_values(gateway: Gateway) -> None:
    def with_threads() -> list[Any]:
        with Client(gateway.target) as client:
            return [
                client.upsert_items([NewItem("new", {"year": 2026, "genres": ["home"]})]),
                client.get_items(["new", "nobody"]),
                client.get_items(["new"], ["year"]),
                client.info(),
                client.record([Event("u", "c", datetime(2026, 3, 1, tzinfo=UTC), event_id="1")]),
                client.recommend("user_to_item", user_id="u", top_k=1).items[0].item_id,
                client.delete_items(["new"]),
                client.delete_user("u"),
            ]

    async with AsyncClient(gateway.target) as client:
        by_asyncio: list[Any] = [
            await client.upsert_items([NewItem("new", {"year": 2026, "genres": ["home"]})]),
            await client.get_items(["new", "nobody"]),
            await client.get_items(["new"], ["year"]),
            await client.info(),
            await client.record([Event("u", "c", datetime(2026, 3, 1, tzinfo=UTC), event_id="1")]),
            (await client.recommend("user_to_item", user_id="u", top_k=1)).items[0].item_id,
            await client.delete_items(["new"]),
            await client.delete_user("u"),
        ]
    assert await asyncio.to_thread(with_threads) == by_asyncio
    assert by_asyncio[1][0].metadata["genres"] == ["home"]
    assert [dict(item.metadata) for item in by_asyncio[2]] == [{"year": 2026}]
    assert by_asyncio[3].bundle_ids == [gateway.bundle.bundle_id]
    assert by_asyncio[3].columns["genres"] == "string_list"
    assert by_asyncio[3].limits["max_top_k"] == 1_000
    assert by_asyncio[4] == [Outcome("1", 0, "")]
    assert by_asyncio[5] == "d"


async def test_a_refusal_says_what_is_wrong_and_when_to_come_back(gateway: Gateway) -> None:
    async with AsyncClient(gateway.target) as client:
        with pytest.raises(ClozerecRefused) as refused:
            await client.recommend("sequential", session_items=["a"], top_k=5000)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(refused.value.violations) == ["top_k"]
    async with AsyncClient("127.0.0.1:1", timeout_s=0.5) as nobody:
        with pytest.raises(ClozerecRefused) as refused:
            await nobody.recommend("user_to_item", user_id="u")
    assert refused.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_time_without_a_zone_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    async with AsyncClient(gateway.target) as client:
        with pytest.raises(ValueError, match="time zone"):
            await client.record([Event("u", "c", datetime(2026, 3, 1))])


async def test_datetimes_are_sent_in_metadata_and_filters(gateway: Gateway) -> None:
    made = datetime(2026, 3, 1, tzinfo=UTC)
    async with AsyncClient(gateway.target) as client:
        await client.upsert_items([NewItem("new", {"released": made, "genres": ("home", "new")})])
        (item,) = await client.get_items(["new"])
        assert item.metadata["released"] == "2026-03-01T00:00:00Z"
        assert item.metadata["genres"] == ["home", "new"]
        found = await client.recommend(
            "user_to_item", user_id="nobody", filters={"$and": [{"meta.released": {"$gte": made}}]}
        )
        assert [each.item_id for each in found.items] == ["new"]
        with pytest.raises(ValueError, match="time zone"):
            await client.upsert_items([NewItem("new", {"released": datetime(2026, 3, 1)})])


async def test_one_text_in_place_of_a_list_of_ids_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    """`delete_items("172")` would delete the items 1, 7 and 2."""
    async with AsyncClient(gateway.target) as client:
        for call in (
            client.delete_items("a"),
            client.get_items("a"),
            client.get_items(["a"], "year"),
            client.upsert_items([NewItem("a")], "year"),
            client.recommend("sequential", session_items="abc"),
            client.recommend("user_to_item", user_id="u", exclude_item_ids="a"),
        ):
            with pytest.raises(TypeError, match="expected a list"):
                await call
        assert len(await client.get_items(["a"])) == 1


async def test_many_queries_are_answered_in_their_order(gateway: Gateway) -> None:
    async def queries() -> AsyncIterator[tuple[Any, dict[str, Any]]]:
        for item_id in ("a", "nobody", "b"):
            yield "item_to_item", {"item_id": item_id, "top_k": 1}

    async with AsyncClient(gateway.target) as client:
        answers = [answer async for answer in client.recommend_many(queries())]
    assert [type(answer) for answer in answers] == [Recommendation, Outcome, Recommendation]


def item(item_id: str) -> tuple[Any, dict[str, Any]]:
    return "item_to_item", {"item_id": item_id, "top_k": 1}


async def take(answers: AsyncIterator[Any], into: list[Any], on_answer: Callable[[], object] = lambda: None) -> None:
    async for answer in answers:
        into.append(answer)
        on_answer()


async def test_what_is_wrong_with_a_query_of_many_is_raised_after_the_answers_before_it(gateway: Gateway) -> None:
    async def queries(fault: Exception | None) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
        yield item("a")
        if fault is not None:
            raise fault
        yield "item_to_item", {"no_such_field": 1}

    async with AsyncClient(gateway.target) as client:
        for fault, raised in ((LookupError("their own"), LookupError), (None, ValueError)):
            answers: list[Any] = []
            with pytest.raises(raised):
                await take(client.recommend_many(queries(fault)), answers)
            assert len(answers) == 1


async def test_whoever_stops_reading_the_answers_to_many_stops_the_stream(gateway: Gateway) -> None:
    stopped = asyncio.Event()

    async def queries() -> AsyncIterator[tuple[Any, dict[str, Any]]]:
        try:
            yield item("a")
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with AsyncClient(gateway.target) as client:
        async for _ in client.recommend_many(queries()):
            break
        async with asyncio.timeout(TIMEOUT_S):
            await stopped.wait()


async def test_a_stream_waits_for_its_caller_but_not_for_a_gateway_that_went_silent(gateway: Gateway) -> None:
    relay = Relay()
    await relay.listen(int(gateway.target.rpartition(":")[2]))
    answered = asyncio.Event()
    idle_s = 1.0

    async def queries() -> AsyncIterator[tuple[Any, dict[str, Any]]]:
        yield item("a")
        await answered.wait()
        with pytest.raises(TimeoutError):  # a caller who takes longer than that to think of the next one
            async with asyncio.timeout(2 * idle_s):
                await asyncio.Event().wait()
        yield item("b")
        relay.freeze()
        yield item("c")
        await asyncio.Event().wait()

    answers: list[Any] = []
    async with AsyncClient(f"127.0.0.1:{relay.port}") as client:
        with pytest.raises(ClozerecRefused, match="no answer came for 1 s") as refused:
            await take(client.recommend_many(queries(), idle_timeout_s=idle_s), answers, answered.set)
    assert refused.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 1 <= len(answers) <= 2
    await relay.close()
