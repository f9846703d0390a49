"""What only shows in time, and what security and observability cost."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import grpc

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from faults.asking import DEADLINE_S, OWN_CHANNEL, Outcome, paced
from faults.stack import Stack, stack
from faults.table import PLAIN, Arrangement, Place, check

SHARE_OF_CAPACITY = 0.7
WARM_UP_S = 60.0
PARTS = 6
LIVE_EVENTS = 10
"""Kept of a person, few, so that what grows with use stops growing while the soak warms up."""
NUM_PEOPLE, NUM_NEW_ITEMS = 40, 100
HTTP_CONNECTIONS = 2
WRITES, ITEMS, JSON = 0.06, 0.02, 0.04
"""Shares of the calls that are events, upserts, and queries over HTTP; the others are queries over gRPC."""

LARGEST_GROWTH = 0.02
"""Of memory and of descriptors, after the warm-up; a single descriptor more is a connection that was kept."""
LARGEST_P99_RATIO = 1.2
"""Of the last sixth of the time to the first."""

ROUNDS = 1500
LARGEST_P50_RATIO = 1.25


@dataclass(frozen=True)
class Measured:
    """What was seen, and what of it is not as promised."""

    seen: str
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return self.seen + "".join(f"; **{fault}**" for fault in self.faults)


async def soak(place: Place, minutes: float) -> Measured:
    """Mixed load at 70% of capacity: memory, descriptors and p99 stay as they are."""
    async with stack(PLAIN, place, CLOZEREC_MAX_LIVE_EVENTS=str(LIVE_EVENTS)) as running:
        per_s = SHARE_OF_CAPACITY * await running.asker.closed_loop(Outcome(), 5)
        parts = [Outcome() for _ in range(PARTS)]
        async with Mixed(running) as mixed:
            await mixed.at_rate(per_s, WARM_UP_S, Outcome())
            before = [(process.memory_mb(), process.descriptors()) for process in running.processes]
            for part in parts:
                await mixed.at_rate(per_s, minutes * 60 / PARTS, part)
            after = [(process.memory_mb(), process.descriptors()) for process in running.processes]
    memory = ", ".join(
        f"{process.part} {then[0]:.0f} MB {now[0] / then[0] - 1:+.1%}, {then[1]} descriptors {now[1] - then[1]:+d}"
        for process, then, now in zip(running.processes, before, after, strict=True)
    )
    ratio = parts[-1].percentile_ms(99) / parts[0].percentile_ms(99)
    total = Outcome()
    for part in parts:
        total += part
    grown = [
        f"{process.part} has {what} {now / then - 1:+.1%}"
        for process, *counts in zip(running.processes, before, after, strict=True)
        for what, then, now, spare in zip(("memory", "descriptors"), *counts, (0, 1), strict=True)
        if now > then * (1 + LARGEST_GROWTH) and now > then + spare
    ]
    slower = [f"p99 {ratio:.2f} times"] if ratio > LARGEST_P99_RATIO else []
    try:
        check(total, errors=None)
        broken = []
    except AssertionError as error:
        broken = [str(error)]
    return Measured(
        f"{minutes:g} min of mixed load at {per_s:.0f}/s: {memory}; p99 of the last sixth {ratio:.2f} times the "
        f"first ({parts[0].percentile_ms(99):.1f} to {parts[-1].percentile_ms(99):.1f} ms); {total}",
        (*grown, *slower, *broken),
    )


class Mixed:
    """Queries over gRPC and HTTP, events, and upserts, all at once."""

    def __init__(self, running: Stack) -> None:
        self._asker = running.asker
        self._items = [question.session_items[0] for question in running.place.questions()]
        self._url = f"http://127.0.0.1:{running.gateway.http_port}/v1/recommend"
        self._channel = grpc.aio.insecure_channel(running.gateway.target, OWN_CHANNEL)
        self._stub = RecommenderServiceStub(self._channel)
        self._outcome = Outcome()

    async def __aenter__(self) -> Mixed:
        # More connections than calls need would come and go with the noise of the machine, and be counted as kept.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(DEADLINE_S), connector=aiohttp.TCPConnector(limit=HTTP_CONNECTIONS)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._channel.close()

    async def at_rate(self, per_s: float, duration_s: float, outcome: Outcome) -> None:
        """Open loop; latencies are those of the queries over gRPC, codes those of all calls."""
        self._outcome = outcome
        await asyncio.gather(
            self._asker.at_rate(per_s * (1 - WRITES - ITEMS - JSON), duration_s, outcome),
            paced(per_s * WRITES, duration_s, self._event),
            paced(per_s * ITEMS, duration_s, self._upsert),
            paced(per_s * JSON, duration_s, self._json),
        )

    async def _event(self, number: int) -> None:
        request = recommender_pb2.RecordInteractionsRequest()
        event = request.interactions.add(
            user_id=f"person-{number % NUM_PEOPLE}", item_id=self._items[number % len(self._items)]
        )
        event.time.GetCurrentTime()
        await self._write(self._stub.RecordInteractions(request, timeout=DEADLINE_S))

    async def _upsert(self, number: int) -> None:
        request = recommender_pb2.UpsertItemsRequest()
        request.items.add(item_id=f"new-{number % NUM_NEW_ITEMS}").metadata["title"] = f"title {number}"
        await self._write(self._stub.UpsertItems(request, timeout=DEADLINE_S))

    async def _write(self, call: grpc.aio.UnaryUnaryCall) -> None:  # type: ignore[type-arg]
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self._outcome.codes[error.code().name] += 1

    async def _json(self, number: int) -> None:
        body = {"query_type": "user_to_item", "user_id": f"person-{number % NUM_PEOPLE}", "top_k": 3}
        try:
            async with self._session.post(self._url, json=body) as response:
                await response.read()
                if response.status != 200:
                    self._outcome.codes[f"HTTP {response.status}"] += 1
        except TimeoutError:
            self._outcome.codes["DEADLINE_EXCEEDED"] += 1


async def overhead(place: Place) -> Measured:
    """One caller through three processes: TLS on each hop, tokens, metrics and tracing on, against all of them off, and
    with one request in ten traced.
    """
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        # Spans are made and queued; nobody takes them, as when a collector is down.
        collector = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with AsyncExitStack() as running:
            askers = []
            for name, has_tls, variables in (
                ("all off", False, {"CLOZEREC_METRICS": "false"}),
                ("all on", True, {"CLOZEREC_OTLP_ENDPOINT": collector}),
                (
                    "one in ten traced",
                    True,
                    {"CLOZEREC_OTLP_ENDPOINT": collector, "CLOZEREC_TRACE_SAMPLE_RATIO": "0.1"},
                ),
            ):
                arrangement = Arrangement(has_tls=has_tls)
                each = await running.enter_async_context(
                    stack(arrangement, place.apart(name.replace(" ", "-")), **variables)
                )
                askers.append((name, each.asker))
            outcomes = {name: Outcome() for name, _ in askers}
            for outcome in (None, outcomes):  # the first to warm up; in turn, so that noise meets all
                for number in range(ROUNDS):
                    for name, asker in askers:
                        await asker.ask(number, Outcome() if outcome is None else outcome[name])
    for outcome in outcomes.values():
        check(outcome, fallbacks=False)
    base_ms = outcomes["all off"].percentile_ms(50)
    ratio, sampled = (outcomes[name].percentile_ms(50) / base_ms for name in ("all on", "one in ten traced"))
    return Measured(
        f"p50 {ratio:.2f} times, {sampled:.2f} times with one request in ten traced; "
        + "; ".join(f"{name}: {outcome}" for name, outcome in outcomes.items()),
        (f"p50 {ratio:.2f} times",) if ratio > LARGEST_P50_RATIO else (),
    )
