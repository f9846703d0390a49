"""More calls than can be answered, and callers who give up."""

from __future__ import annotations

import asyncio
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from faults.asking import DEADLINE_S, OWN_CHANNEL, Outcome
from faults.processes import ServiceProcess
from faults.stack import Stack
from faults.table import Rates, check, row, until

OVERLOAD_S = 3.0
PEAK_S = 2.0
SLOWER = 3.0
"""How much longer than at the peak an admitted call may take."""
PROBE_EVERY_S, PROBE_TIMEOUT_S = 0.25, 1.0
BOUND = 64
"""What a caller that bounds itself has under way at most."""
CANCELLED_AT_ONCE, CANCEL_ROUNDS = 100, 10


async def _overloaded(stack: Stack, factor: float, goodput_floor: float, bound: int | None) -> Rates:
    peak, during, after = Outcome(), Outcome(), Outcome()
    peak_per_s = await stack.asker.closed_loop(peak, PEAK_S)
    probing = asyncio.create_task(_probe(stack.gateway.target))
    await stack.asker.at_rate(peak_per_s * factor, OVERLOAD_S, during, bound)
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    await stack.asker.at_rate(peak_per_s * 0.3, 1, after)
    goodput = during.right / OVERLOAD_S / peak_per_s
    slower = during.percentile_ms(99, only_right=True) / peak.percentile_ms(99)
    found = f"peak {peak_per_s:.0f}/s, goodput {goodput:.0%}, admitted p99 {slower:.1f} times; {during}; after: {after}"
    check(during, errors=None)
    check(after)
    assert probing.cancelled(), f"a probe failed: {probing.exception()!r}; {found}"
    assert goodput >= goodput_floor, found
    assert slower <= SLOWER, found
    assert after.fallback == 0, found
    return Rates("of the peak", [goodput], during)


async def _probe(target: str) -> None:
    """Ask for health as a kubelet does, until cancelled; ends with the error of a probe that fails."""
    async with grpc.aio.insecure_channel(target, OWN_CHANNEL) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            await stub.Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=PROBE_TIMEOUT_S)
            await asyncio.sleep(PROBE_EVERY_S)


WELL = "admitted calls' p99 within 3 times, probes green, well again at once"


@row("open loop at 2 times the peak", f"goodput 80% of the peak; {WELL}")
async def overload_twice(stack: Stack) -> Rates:
    return await _overloaded(stack, 2, 0.8, None)


@row("open loop at 5 times the peak", f"goodput 50% of the peak; {WELL}")
async def overload_five_times(stack: Stack) -> Rates:
    return await _overloaded(stack, 5, 0.5, None)


@row(f"2 times the peak, from a caller with {BOUND} calls under way at most", f"goodput 80% of the peak; {WELL}")
async def bounded_twice(stack: Stack) -> Rates:
    return await _overloaded(stack, 2, 0.8, BOUND)


@row(f"5 times the peak, from a caller with {BOUND} calls under way at most", f"goodput 50% of the peak; {WELL}")
async def bounded_five_times(stack: Stack) -> Rates:
    return await _overloaded(stack, 5, 0.5, BOUND)


async def _is_idle(process: ServiceProcess) -> bool:
    return await process.metric("clozerec_server_calls_in_flight") == 0


@row(
    f"clients cancel, {CANCELLED_AT_ONCE * CANCEL_ROUNDS:,} calls",
    "queued work dropped, every slot free again, the next calls answered as before",
)
async def cancel(stack: Stack) -> Outcome:
    question = stack.place.questions()[0]
    async with grpc.aio.insecure_channel(stack.gateway.target, OWN_CHANNEL) as channel:
        stub = RecommenderServiceStub(channel)
        for round_ in range(CANCEL_ROUNDS):
            calls = [stub.Recommend(question, timeout=DEADLINE_S) for _ in range(CANCELLED_AT_ONCE)]
            await asyncio.sleep(0.002 * round_)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
    after = Outcome()
    await stack.asker.at_rate(stack.rate_per_s, 0.5, after)
    check(after, fallbacks=False)
    for process in stack.processes:
        await until(partial(_is_idle, process))
    assert await stack.encoders[0].metric("clozerec_encoder_waiting_tokens") == 0
    return after
