"""Processes that die, freeze, restart, or cannot be reached."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from redis_server import RedisServer

from clozerec.v1 import recommender_pb2
from faults.asking import Asker, Outcome
from faults.processes import ServiceProcess
from faults.stack import Stack, during
from faults.table import RECOVERY_S, Arrangement, check, row

TWO_ENCODERS = Arrangement(num_encoders=2, drains_slowly=True)
TWO_RETRIEVERS = Arrangement(num_retrievers=2, has_redis=True, drains_slowly=True)
WITH_REDIS = Arrangement(has_redis=True)
FROZEN_S = 2.0
LEFT_OUT_AFTER_S = 4.0


@row("SIGKILL one of two encoders", "0 client errors: calls go to the other; it restarts clean", on=TWO_ENCODERS)
async def kill_an_encoder(stack: Stack) -> Outcome:
    return await _killed(stack, stack.encoders[0])


@row(
    "SIGKILL one of two retrievers",
    "0 client errors: calls go to the other; it restarts clean",
    on=TWO_RETRIEVERS,
)
async def kill_a_retriever(stack: Stack) -> Outcome:
    return await _killed(stack, stack.retrievers[0])


async def _killed(stack: Stack, victim: ServiceProcess) -> Outcome:
    outcome = Outcome()

    async def kill_and_restart() -> None:
        await victim.kill()
        await asyncio.sleep(0.5)
        await victim.start()

    await during(stack.asker.at_rate(stack.rate_per_s, 3, outcome), 0.5, kill_and_restart)
    await stack.asker.until_right(RECOVERY_S, outcome)
    check(outcome)
    return outcome


@row("rolling SIGTERM of two encoders, whose addresses stay known", "0 errors, 0 fallbacks", on=TWO_ENCODERS)
async def rolling_restart(stack: Stack) -> Outcome:
    return await _rolled(stack, stack.encoders)


@row(
    "rolling SIGTERM of two retrievers, whose addresses stay known",
    "0 errors, 0 fallbacks",
    on=TWO_RETRIEVERS,
)
async def rolling_retrievers(stack: Stack) -> Outcome:
    return await _rolled(stack, stack.retrievers)


async def _rolled(stack: Stack, processes: Sequence[ServiceProcess]) -> Outcome:
    outcome = Outcome()

    async def roll() -> None:
        for process in processes:
            await process.restart()
            await asyncio.sleep(0.5)

    rolling = asyncio.create_task(roll())
    while not rolling.done():
        await stack.asker.at_rate(stack.rate_per_s, 0.5, outcome)
    await rolling
    check(outcome, fallbacks=False)
    return outcome


@row("SIGKILL the only encoder", "an answer or a flagged fallback inside the deadline; recovers alone")
async def kill_the_encoder(stack: Stack) -> Outcome:
    return await _gone_for_a_while(stack, stack.encoders[0])


@row("SIGKILL the only retriever", "an answer or a flagged fallback inside the deadline; recovers alone")
async def kill_the_retriever(stack: Stack) -> Outcome:
    return await _gone_for_a_while(stack, stack.retriever)


async def _gone_for_a_while(stack: Stack, victim: ServiceProcess) -> Outcome:
    outcome = Outcome()
    await victim.kill()
    await stack.asker.at_rate(stack.rate_per_s, 1, outcome)
    await victim.start()
    await stack.asker.until_right(RECOVERY_S, outcome)
    check(outcome)
    return outcome


@row(
    "SIGSTOP one of two encoders",
    f"flagged fallbacks for {LEFT_OUT_AFTER_S:g} s at most, then right answers by the other alone; 0 errors",
    on=TWO_ENCODERS,
)
async def freeze_one_encoder(stack: Stack) -> Outcome:
    outcome, without = Outcome(), Outcome()
    stack.encoders[0].send(signal.SIGSTOP)
    await stack.asker.at_rate(stack.rate_per_s, LEFT_OUT_AFTER_S, outcome)
    await stack.asker.at_rate(stack.rate_per_s, FROZEN_S, without)
    stack.encoders[0].send(signal.SIGCONT)
    check(without, fallbacks=False)
    outcome += without
    await stack.asker.until_right(RECOVERY_S, outcome)
    check(outcome)
    return outcome


async def _stopped(stack: Stack, victim: ServiceProcess) -> Outcome:
    outcome = Outcome()
    victim.send(signal.SIGSTOP)
    await stack.asker.at_rate(stack.rate_per_s, FROZEN_S, outcome)
    victim.send(signal.SIGCONT)
    await stack.asker.until_right(RECOVERY_S, outcome)
    check(outcome)
    return outcome


@row("SIGSTOP the encoder", "a flagged fallback within the deadline; recovers alone")
async def freeze_the_encoder(stack: Stack) -> Outcome:
    return await _stopped(stack, stack.encoders[0])


@row("SIGSTOP the retriever", "a flagged fallback within the deadline; recovers alone")
async def freeze_the_retriever(stack: Stack) -> Outcome:
    return await _stopped(stack, stack.retriever)


@row(
    "SIGSTOP Redis, which holds the histories",
    "DEGRADED or popularity within the deadline; recovers alone",
    on=WITH_REDIS,
)
async def freeze_redis(stack: Stack) -> Outcome:
    return await _without_histories(stack, frozen)


@row(
    "SIGKILL Redis, which holds the histories",
    "DEGRADED or popularity within the deadline; recovers alone, with every event",
    on=WITH_REDIS,
)
async def kill_redis(stack: Stack) -> Outcome:
    return await _without_histories(stack, killed)


@row(
    "silent partition of Redis, which holds the histories (nft drop)",
    "DEGRADED or popularity within the deadline; recovers alone",
    on=WITH_REDIS,
    tool="nft",
)
async def partition_redis(stack: Stack) -> Outcome:
    return await _without_histories(stack, lambda redis: dropped(redis.port))


@contextmanager
def frozen(redis: RedisServer) -> Iterator[None]:
    """It does not answer meanwhile."""
    redis.freeze()
    try:
        yield
    finally:
        redis.thaw()


@contextmanager
def killed(redis: RedisServer) -> Iterator[None]:
    """It is not there meanwhile."""
    redis.kill()
    try:
        yield
    finally:
        redis.start()


async def _without_histories(stack: Stack, lost: Callable[[RedisServer], AbstractContextManager[None]]) -> Outcome:
    """Asked for people whose history Redis holds: each has one event, so the answer follows from it."""
    assert stack.redis is not None
    questions = [
        recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_USER_TO_ITEM", user_id=f"person-{number}", top_k=3)
        for number in range(8)
    ]
    item_ids = [question.session_items[0] for question in stack.place.questions()]
    asker = Asker(stack.gateway.target, questions)
    try:
        await asker.record([(question.user_id, item_ids[i]) for i, question in enumerate(questions)])
        await asker.learn()
        outcome = Outcome()
        with lost(stack.redis):
            await asker.at_rate(stack.rate_per_s, FROZEN_S, outcome)
        await asker.until_right(RECOVERY_S, outcome)
    finally:
        await asker.close()
    check(outcome)
    assert outcome.fallback, "nobody missed it"
    return outcome


@contextmanager
def dropped(port: int) -> Iterator[None]:
    """Packets to and from this port vanish, on loopback too, without a word to either side."""
    table = f"clozerec_faults_{port}"
    rules = "\n".join(f"add rule inet {table} out tcp {side} {port} drop" for side in ("dport", "sport"))
    script = f"add table inet {table}\nadd chain inet {table} out {{ type filter hook output priority 0; }}\n{rules}\n"
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)


async def _partitioned(stack: Stack, lost: ServiceProcess) -> Outcome:
    outcome = Outcome()
    with dropped(lost.port):
        await stack.asker.at_rate(stack.rate_per_s, FROZEN_S, outcome)
    await stack.asker.until_right(60, outcome)
    check(outcome)
    return outcome


@row("silent partition of the encoder (nft drop)", "a flagged fallback, never a hang; recovers alone", tool="nft")
async def partition_the_encoder(stack: Stack) -> Outcome:
    return await _partitioned(stack, stack.encoders[0])


@row("silent partition of the retriever (nft drop)", "a flagged fallback, never a hang; recovers alone", tool="nft")
async def partition_the_retriever(stack: Stack) -> Outcome:
    return await _partitioned(stack, stack.retriever)
