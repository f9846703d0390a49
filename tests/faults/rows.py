"""The table of faults: each row breaks real processes under load and says what was seen.

A row returns what it saw and raises AssertionError where that is not what must happen. They use the golden bundle, so
that nothing has to be trained.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

from clozerec.v1 import recommender_pb2, retriever_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec.v1.retriever_pb2_grpc import RetrieverServiceStub
from clozerec_core.access import new_token
from clozerec_core.bundle import Bundle
from faults.stack import DEADLINE_S, Outcome, ServiceProcess, Stack, during, stack

RATE_PER_S = 100.0
RECOVERY_S = 15.0
DRAINING = {"CLOZEREC_DRAIN_DELAY_S": "1", "CLOZEREC_GRACE_S": "5"}


@dataclass(frozen=True)
class Place:
    """What a row works with."""

    bundle: Path
    scratch: Path

    def questions(self) -> list[recommender_pb2.RecommendRequest]:
        """Sessions of the catalogue's items, with three answers each."""
        item_ids = Bundle.open(self.bundle).catalogue.item_ids
        return [
            recommender_pb2.RecommendRequest(
                query_type="QUERY_TYPE_SEQUENTIAL",
                session_items=[item_ids[(first + step) % len(item_ids)] for step in range(3)],
                top_k=3,
            )
            for first in range(0, len(item_ids), max(1, len(item_ids) // 32))
        ]


Row = Callable[[Place], Awaitable[str]]
ROWS: dict[str, tuple[str, str, Row]] = {}
"""Name to fault, expectation, and what to do."""


def row(fault: str, expected: str) -> Callable[[Row], Row]:
    """Enter a function into the table under its name."""

    def enter(function: Row) -> Row:
        ROWS[function.__name__] = (fault, expected, function)
        return function

    return enter


def check(outcome: Outcome, errors: int | None = 0, fallbacks: bool = True) -> None:
    """Nothing wrong and nothing hung, ever; errors and fallbacks where the row allows them."""
    assert outcome.wrong == 0, f"{outcome.wrong} wrong answers: {outcome.wrong_examples[:3]}"
    assert outcome.hung == 0, f"{outcome.hung} calls hung"
    assert set(outcome.codes) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}, dict(outcome.codes)
    if errors is not None:
        assert outcome.errors <= errors, str(outcome)
    if not fallbacks:
        assert outcome.fallback == 0, str(outcome)


@row("SIGKILL one of two encoders", "0 client errors: calls go to the other; it restarts clean")
async def kill_an_encoder(place: Place) -> str:
    outcome = Outcome()
    async with stack(place.bundle, place.scratch, place.questions(), num_encoders=2) as running:
        victim = running.encoders[0]

        async def kill_and_restart() -> None:
            victim.send(signal.SIGKILL)
            await victim.wait()
            await asyncio.sleep(1)
            await victim.start()

        await during(running.asker.at_rate(RATE_PER_S, 6, outcome), 1, kill_and_restart)
        check(outcome, errors=0)
        return str(outcome)


@row("SIGKILL the only retriever", "an answer or a flagged fallback inside the deadline; recovers alone")
async def kill_the_retriever(place: Place) -> str:
    outcome = Outcome()
    async with stack(place.bundle, place.scratch, place.questions()) as running:
        running.retriever.send(signal.SIGKILL)
        await running.retriever.wait()
        await running.asker.at_rate(RATE_PER_S, 2, outcome)
        await running.retriever.start()
        recovery_s = await running.asker.until_right(RECOVERY_S)
        check(outcome, errors=None)
        return f"{outcome}; right again {recovery_s:.1f} s after its restart"


@row("rolling SIGTERM of two encoders, endpoints known a second longer", "0 errors")
async def rolling_restart(place: Place) -> str:
    outcome = Outcome()
    async with stack(place.bundle, place.scratch, place.questions(), num_encoders=2, **DRAINING) as running:

        async def roll() -> None:
            for encoder in running.encoders:
                await encoder.restart()
                await asyncio.sleep(1)

        rolling = asyncio.create_task(roll())
        while not rolling.done():
            await running.asker.at_rate(RATE_PER_S, 1, outcome)
        await rolling
        check(outcome, errors=0, fallbacks=False)
        return str(outcome)


async def _frozen(place: Place, choose: Callable[[Stack], ServiceProcess]) -> str:
    outcome = Outcome()
    async with stack(place.bundle, place.scratch, place.questions()) as running:
        frozen = choose(running)
        frozen.send(signal.SIGSTOP)
        await running.asker.at_rate(RATE_PER_S / 2, 4, outcome)
        frozen.send(signal.SIGCONT)
        recovery_s = await running.asker.until_right(RECOVERY_S)
        check(outcome, errors=None)
        return f"{outcome}; right again after {recovery_s:.1f} s"


@row("SIGSTOP the encoder", "an answer or a status within the deadline; recovers alone")
async def freeze_the_encoder(place: Place) -> str:
    return await _frozen(place, lambda running: running.encoders[0])


@row("SIGSTOP the retriever", "an answer or a status within the deadline; recovers alone")
async def freeze_the_retriever(place: Place) -> str:
    return await _frozen(place, lambda running: running.retriever)


@contextmanager
def dropped(*ports: int):  # type: ignore[no-untyped-def]  # a generator of nothing
    """Packets to and from these ports vanish, on loopback too, without a word to either side."""
    table = f"clozerec_faults_{ports[0]}"
    rules = "\n".join(
        f"add rule inet {table} out tcp {side} {port} drop" for port in ports for side in ("dport", "sport")
    )
    script = f"add table inet {table}\nadd chain inet {table} out {{ type filter hook output priority 0; }}\n{rules}\n"
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)


async def _partitioned(place: Place, choose: Callable[[Stack], ServiceProcess]) -> str:
    outcome = Outcome()
    async with stack(place.bundle, place.scratch, place.questions()) as running:
        with dropped(choose(running).port):
            await running.asker.at_rate(RATE_PER_S / 2, 4, outcome)
        recovery_s = await running.asker.until_right(60)
        check(outcome, errors=None)
        return f"{outcome}; right again after {recovery_s:.1f} s"


@row("silent partition of the encoder (nft drop)", "a status or a fallback, never a hang; recovers alone")
async def partition_the_encoder(place: Place) -> str:
    return await _partitioned(place, lambda running: running.encoders[0])


@row("silent partition of the retriever (nft drop)", "a status or a fallback, never a hang; recovers alone")
async def partition_the_retriever(place: Place) -> str:
    return await _partitioned(place, lambda running: running.retriever)


async def _overloaded(place: Place, factor: float, goodput_floor: float) -> str:
    async with stack(place.bundle, place.scratch, place.questions()) as running:
        capacity = await running.asker.capacity()
        outcome = Outcome()
        await running.asker.at_rate(capacity * factor, 5, outcome)
        goodput = outcome.right / 5
        after = Outcome()
        await asyncio.sleep(0.5)
        await running.asker.at_rate(capacity * 0.3, 2, after)
        check(outcome, errors=None)
        check(after, errors=0)
        found = f"capacity {capacity:.0f}/s, goodput {goodput / capacity:.0%} of it; {outcome}; after: {after}"
        assert goodput >= goodput_floor * capacity, found
        return found


@row("open loop at 2 times capacity", "goodput 80% of the peak; well again at once")
async def overload_twice(place: Place) -> str:
    return await _overloaded(place, 2, 0.8)


@row("open loop at 5 times capacity", "goodput 50% of the peak; well again at once")
async def overload_five_times(place: Place) -> str:
    return await _overloaded(place, 5, 0.5)


@row("clients cancel, 2,000 calls", "slots freed: the next calls are answered as before")
async def cancel(place: Place) -> str:
    async with stack(place.bundle, place.scratch, place.questions()) as running:
        async with grpc.aio.insecure_channel(running.gateway.target) as channel:
            stub = RecommenderServiceStub(channel)
            for _ in range(20):
                calls = [stub.Recommend(place.questions()[0], timeout=DEADLINE_S) for _ in range(100)]
                await asyncio.sleep(0.002)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
        after = Outcome()
        await running.asker.at_rate(RATE_PER_S, 2, after)
        check(after, errors=0, fallbacks=False)
        return f"after: {after}"


def _damaged(kind: str, source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    vectors = target / "vectors.npy"
    if kind == "truncated":
        vectors.write_bytes(vectors.read_bytes()[:-7])
    elif kind == "one bit flipped":
        raw = bytearray(vectors.read_bytes())
        raw[len(raw) // 2] ^= 1
        vectors.write_bytes(raw)
    else:
        shutil.copyfile(target / "content.npy", vectors)


@row("bundle truncated, one bit flipped, a file of another put in", "refused by name; the last good one keeps serving")
async def damaged_bundle(place: Place) -> str:
    said = []
    current = place.scratch / "bundles" / "current"
    current.parent.mkdir(parents=True)
    current.symlink_to(place.bundle.resolve())
    async with stack(current, place.scratch, place.questions(), CLOZEREC_BUNDLE_POLL_S="0.1") as running:
        for number, kind in enumerate(("truncated", "one bit flipped", "foreign file")):
            bad = current.parent / f"bad{number}"
            _damaged(kind, place.bundle, bad)
            outcome = Outcome()
            link = current.parent / "next"
            link.symlink_to(bad)
            link.rename(current)
            await running.asker.at_rate(RATE_PER_S, 2, outcome)
            check(outcome, errors=0, fallbacks=False)
            refused = [event for event in running.retriever.events if event["event"] == "bundle_refused"]
            assert len(refused) > number, f"{kind}: nobody refused it"
            assert "vectors.npy" in str(refused[-1]), refused[-1]
        said.append(str(outcome))
        lone = ServiceProcess("retriever", "--bundle", str(bad))
        try:
            await lone.start()
        except RuntimeError as error:
            assert "vectors.npy" in str(error), error
        else:
            raise AssertionError("a process started from a damaged bundle")
    return said[-1]


@row("kill -9 of the retriever while it takes items, 5 times", "nothing acknowledged is lost, nothing is half there")
async def kill_during_upserts(place: Place) -> str:
    acknowledged: set[str] = set()
    retriever = ServiceProcess("retriever", "--bundle", str(place.bundle), CLOZEREC_STATE_DIR=str(place.scratch))

    async def write(round_: int) -> None:
        async with grpc.aio.insecure_channel(retriever.target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            stub = RetrieverServiceStub(channel)
            for batch in range(10_000):
                ids = [f"new-{round_}-{batch}-{i}" for i in range(20)]
                items = [retriever_pb2.CatalogueItem(item_id=item_id) for item_id in ids]
                request = retriever_pb2.RetrieverServiceUpsertItemsRequest(items=items)
                response = await stub.UpsertItems(request, timeout=DEADLINE_S)
                acknowledged.update(status.item_id for status in response.statuses if status.code == 0)

    await retriever.start()
    try:
        for round_ in range(5):
            writing = asyncio.create_task(write(round_))
            await asyncio.sleep(0.3 + 0.07 * round_)
            retriever.send(signal.SIGKILL)
            await retriever.wait()
            with suppress(grpc.aio.AioRpcError):  # of the call that the kill met
                await writing
            await retriever.start()
            async with grpc.aio.insecure_channel(retriever.target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
                lost = await _unknown(RetrieverServiceStub(channel), sorted(acknowledged))
            assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged items are gone: {lost[:3]}"
    finally:
        await retriever.stop()
    assert len(acknowledged) > 500
    return f"{len(acknowledged)} acknowledged, 0 lost"


async def _unknown(stub: RetrieverServiceStub, item_ids: Sequence[str]) -> list[str]:
    missing = []
    for first in range(0, len(item_ids), 1000):
        request = retriever_pb2.RetrieverServiceGetItemsRequest(item_ids=item_ids[first : first + 1000])
        response = await stub.GetItems(request, timeout=10)
        missing += [item.item_id for item in response.items if not item.known]
    return missing


@row("kill -9 of the gateway while it takes events, 5 times", "nothing acknowledged is lost")
async def kill_during_events(place: Place) -> str:
    """Every acknowledged event counts in its person's next answers: the item is not recommended again."""
    acknowledged: dict[str, str] = {}
    item_ids = Bundle.open(place.bundle).catalogue.item_ids
    async with stack(place.bundle, place.scratch, place.questions()) as running:
        gateway = running.gateway

        async def write(round_: int) -> None:
            async with grpc.aio.insecure_channel(gateway.target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
                stub = RecommenderServiceStub(channel)
                for number in range(10_000):
                    user_id = f"user-{round_}-{number}"
                    item_id = item_ids[number % len(item_ids)]
                    event = recommender_pb2.LiveInteraction(user_id=user_id, item_id=item_id, event_id=user_id)
                    event.time.GetCurrentTime()
                    request = recommender_pb2.RecordInteractionsRequest(interactions=[event])
                    response = await stub.RecordInteractions(request, timeout=DEADLINE_S)
                    if all(status.status.code == 0 for status in response.statuses):
                        acknowledged[user_id] = item_id

        for round_ in range(5):
            writing = asyncio.create_task(write(round_))
            await asyncio.sleep(0.3 + 0.07 * round_)
            gateway.send(signal.SIGKILL)
            await gateway.wait()
            with suppress(grpc.aio.AioRpcError):  # of the call that the kill met
                await writing
            await gateway.start()
        lost = await _forgotten(gateway.target, acknowledged, len(item_ids))
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged events are gone: {lost[:3]}"
    assert len(acknowledged) > 100
    return f"{len(acknowledged)} acknowledged, 0 lost"


async def _forgotten(target: str, item_of_user: dict[str, str], num_items: int) -> list[str]:
    forgotten = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub = RecommenderServiceStub(channel)
        for user_id, item_id in item_of_user.items():
            request = recommender_pb2.RecommendRequest(
                query_type="QUERY_TYPE_USER_TO_ITEM", user_id=user_id, top_k=num_items, exclude_seen=True
            )
            answer = await stub.Recommend(request, timeout=10)
            if item_id in {item.item_id for item in answer.items}:
                forgotten.append(user_id)
    return forgotten


@row("full disk under the retriever's state", "RESOURCE_EXHAUSTED, searches go on, nothing acknowledged is lost")
async def full_disk(place: Place) -> str:
    disk = place.scratch / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    acknowledged: set[str] = set()
    refused = 0
    retriever = ServiceProcess("retriever", "--bundle", str(place.bundle), CLOZEREC_STATE_DIR=str(disk))
    try:
        await retriever.start()
        async with grpc.aio.insecure_channel(retriever.target) as channel:
            stub = RetrieverServiceStub(channel)
            for batch in range(2_000):
                items = [retriever_pb2.CatalogueItem(item_id=f"{batch}-{i}-{'x' * 200}") for i in range(20)]
                request = retriever_pb2.RetrieverServiceUpsertItemsRequest(items=items)
                try:
                    response = await stub.UpsertItems(request, timeout=DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
                    refused += 1
                    if refused == 20:
                        break
                else:
                    acknowledged.update(status.item_id for status in response.statuses if status.code == 0)
            assert refused, "the disk never filled up"
            assert not await _unknown(stub, sorted(acknowledged))
            await stub.ListPopular(retriever_pb2.ListPopularRequest(top_k=3), timeout=DEADLINE_S)
        # Starting writes too, and says so by name while the disk is full; then somebody makes room.
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        await retriever.restart()
        async with grpc.aio.insecure_channel(retriever.target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            assert not await _unknown(RetrieverServiceStub(channel), sorted(acknowledged))
    finally:
        await retriever.stop()
        subprocess.run(["umount", str(disk)], check=True)
    return f"{len(acknowledged)} acknowledged, {refused} batches refused, 0 lost, also after a restart"


async def soak(place: Place, minutes: float) -> str:
    """Mixed load at 70% of capacity: memory, descriptors and p99 stay as they are."""
    async with stack(place.bundle, place.scratch, place.questions()) as running:
        capacity = await running.asker.capacity(duration_s=5)
        await running.asker.at_rate(capacity * 0.7, 30, Outcome())
        before = [(process.memory_mb(), process.descriptors()) for process in running.processes]
        part_s = minutes * 60 / 6
        parts = [Outcome() for _ in range(6)]
        for part in parts:
            await running.asker.at_rate(capacity * 0.7, part_s, part)
            check(part, errors=None)
        after = [(process.memory_mb(), process.descriptors()) for process in running.processes]
    growth = max(now[0] / then[0] - 1 for then, now in zip(before, after, strict=True))
    opened = max(now[1] - then[1] for then, now in zip(before, after, strict=True))
    ratio = parts[-1].percentile_ms(99) / parts[0].percentile_ms(99)
    calls, errors = sum(part.calls for part in parts), sum(part.errors for part in parts)
    return (
        f"{minutes:g} min at {capacity * 0.7:.0f}/s, {calls} calls, {errors} errors: "
        f"resident memory {growth:+.1%} at most, descriptors {opened:+d} at most, "
        f"p99 of the last sixth {ratio:.2f} times the first ({parts[-1]})"
    )


async def overhead(place: Place) -> str:
    """One caller through three processes: TLS on every hop, tokens, metrics and tracing on, against all of them off."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place.scratch / "ca.pem"))
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(place.scratch / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(place.scratch / "cert.pem"))
    (place.scratch / "inner").write_text("an-inner-token-of-some-length\n")
    token, entry = new_token("bench", "read")
    (place.scratch / "tokens.json").write_text(json.dumps({"tokens": [entry]}))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        on = {
            "CLOZEREC_TLS_CERT_PATH": str(place.scratch / "cert.pem"),
            "CLOZEREC_TLS_KEY_PATH": str(place.scratch / "key.pem"),
            "CLOZEREC_INNER_CA_PATH": str(place.scratch / "ca.pem"),
            "CLOZEREC_INNER_TOKEN_PATH": str(place.scratch / "inner"),
            "CLOZEREC_TOKENS_PATH": str(place.scratch / "tokens.json"),
            # Spans are made and queued; nobody takes them, as when a collector is down.
            "CLOZEREC_OTLP_ENDPOINT": f"http://127.0.0.1:{nobody.getsockname()[1]}",
        }
        off = {"CLOZEREC_METRICS": "false"}
        credentials = grpc.ssl_channel_credentials((place.scratch / "ca.pem").read_bytes())
        async with (
            stack(place.bundle, place.scratch / "off", place.questions(), **off) as without,
            stack(
                place.bundle, place.scratch / "on", place.questions(), caller=(credentials, token), **on
            ) as with_everything,
        ):
            outcomes = Outcome(), Outcome()
            for outcome in (Outcome(), Outcome()), outcomes:  # the first to warm up; in turn, so that noise meets both
                for number in range(1500):
                    await without.asker.ask(number, outcome[0])
                    await with_everything.asker.ask(number, outcome[1])
    for outcome in outcomes:
        check(outcome, errors=0, fallbacks=False)
    ratio = outcomes[1].percentile_ms(50) / outcomes[0].percentile_ms(50)
    return f"all off: {outcomes[0]}; all on: {outcomes[1]}; p50 ratio {ratio:.2f} (promised: 1.25)"
