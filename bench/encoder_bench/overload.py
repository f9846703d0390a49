"""What the encoder does beyond its capacity: calls come when they come, whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from encoder_bench.open_loop import Outcome, Patience, offer
from encoder_bench.servers import ENCODE_SEQUENCES, calling, encoder
from encoder_bench.setting import MAX_ITEMS, bundle, say
from encoder_bench.wire import sequences_request

CONNECTIONS = 8
DEADLINE_S, DURATION_S = 0.5, 4.0
BOUNDED = Patience(DEADLINE_S, most_under_way=8, most_waiting=0)
"""64 calls under way in all, and none beyond: how a gateway should treat an inner service."""

QUEUEING = Patience(DEADLINE_S, most_under_way=10**9, most_waiting=10**9)
"""grpc's own clients: whatever the server lets in, and all others wait, oldest first."""

FLOOD_PER_S = 10_000


def open_loop(scratch: Path) -> None:
    """Twice and five times the peak, health checks meanwhile, and a lone caller right after."""
    asyncio.run(_open_loop(scratch))


async def _open_loop(scratch: Path) -> None:
    request = sequences_request([MAX_ITEMS])
    with encoder(bundle(scratch)) as port:
        idle_us = await lone_caller_us(port, request)
        peak = (await run(port, request, FLOOD_PER_S, BOUNDED)).num_good / DURATION_S
        print(f"peak goodput {peak:.0f}/s")
        for factor, wanted in ((2, "at least 0.8"), (5, "at least 0.5")):
            for patience, client in ((BOUNDED, "bounded client"), (QUEUEING, "queueing client")):
                probe = asyncio.create_task(probes(port))
                outcome = await run(port, request, factor * peak, patience)
                probe.cancel()
                failed, num_probes, slowest_s = await probe
                after_us = await lone_caller_us(port, request)
                goodput = outcome.num_good / DURATION_S
                latencies = sorted(outcome.latencies_s) or [0.0]
                p99_ms = latencies[int(len(latencies) * 0.99)] * 1e3
                say(f"{factor} times the peak, {client}", f"{goodput:.0f}/s", goodput / peak, "the peak", wanted)
                print(
                    f"    p99 {p99_ms:.0f} ms; refused {outcome.num_refused}, turned away by the client "
                    f"{outcome.num_turned_away}, late {outcome.num_late}; health: {failed} of {num_probes} probes "
                    f"failed, slowest {slowest_s * 1e3:.0f} ms; right after, a lone caller waits "
                    f"{after_us / idle_us:.1f} x what it does when idle"
                )


async def run(port: int, request: bytes, calls_per_s: float, patience: Patience) -> Outcome:
    return await offer(port, ENCODE_SEQUENCES, [request], calls_per_s, DURATION_S, CONNECTIONS, patience)


async def lone_caller_us(port: int, request: bytes) -> float:
    """Median of a lone caller's first fifty calls."""
    async with calling(port, ENCODE_SEQUENCES) as call:
        times = []
        for _ in range(50):
            began = time.perf_counter()
            await call(request)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e6


async def probes(port: int) -> tuple[int, int, float]:
    """Ask for health ten times a second until cancelled: failures, probes, the slowest in seconds."""
    failed, times = 0, []
    request = health_pb2.HealthCheckRequest(service="clozerec.v1.EncoderService")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            while True:
                began = time.perf_counter()
                try:
                    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=1)
                    failed += answer.status != health_pb2.HealthCheckResponse.SERVING
                except grpc.aio.AioRpcError:
                    failed += 1
                times.append(time.perf_counter() - began)
                await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            return failed, len(times), max(times)
