"""kill -9, full disks and memory limits in the middle of what must be kept."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import toy_world

from clozerec.v1 import recommender_pb2, retriever_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec.v1.retriever_pb2_grpc import RetrieverServiceStub
from clozerec_core.bundle import WEIGHTS, Bundle, FileEntry
from faults.asking import DEADLINE_S, OWN_CHANNEL, Outcome
from faults.limits import MEMORY_GROUP, limited_growth
from faults.processes import ServiceProcess
from faults.stack import Stack
from faults.table import RECOVERY_S, Place, Tally, row

WRITING_S = 0.4
ITEMS_A_CALL = 20
GROWTH_MB = 24
LARGE_TITLE = 8_000
SHORT_TRAINING = {"training_epochs": 6, "validate_every": 3, "checkpoint_seconds": 0}

chance = random.Random()  # when a kill comes is not to be the same each time


async def _killed_while(process: ServiceProcess, write: Callable[[], Awaitable[None]]) -> None:
    """SIGKILL a process at a random moment of the writing, and start it again."""
    writing = asyncio.ensure_future(write())
    await asyncio.sleep(WRITING_S * (0.5 + chance.random()))
    await process.kill()
    with suppress(grpc.aio.AioRpcError):  # of the call that the kill met
        await writing
    await process.start()


async def _upsert(target: str, prefix: str, acknowledged: set[str], title_len: int = 1) -> None:
    """Upsert items until a call fails."""
    async with grpc.aio.insecure_channel(target, OWN_CHANNEL) as channel:
        stub = RetrieverServiceStub(channel)
        for call in range(100_000):
            ids = [f"{prefix}-{call}-{number}" for number in range(ITEMS_A_CALL)]
            request = retriever_pb2.RetrieverServiceUpsertItemsRequest()
            for item_id in ids:
                request.items.add(item_id=item_id).metadata["title"] = item_id.ljust(title_len, "x")
            response = await stub.UpsertItems(request, timeout=DEADLINE_S)
            acknowledged.update(status.item_id for status in response.statuses if status.code == 0)


async def _unknown(target: str, item_ids: Sequence[str]) -> list[str]:
    """Those of the items that the retriever does not have."""
    missing = []
    async with grpc.aio.insecure_channel(target, OWN_CHANNEL) as channel:
        stub = RetrieverServiceStub(channel)
        for first in range(0, len(item_ids), 1000):
            request = retriever_pb2.RetrieverServiceGetItemsRequest(
                item_ids=item_ids[first : first + 1000], metadata_fields=["year"]
            )
            response = await stub.GetItems(request, timeout=10)
            missing += [item.item_id for item in response.items if not item.known]
    return missing


def _nothing_lost(lost: Sequence[str], acknowledged: int) -> None:
    assert acknowledged, "nothing was acknowledged before the kill"
    assert not lost, f"{len(lost)} of {acknowledged} acknowledged are gone: {list(lost)[:3]}"


@row("kill -9 of the retriever while it takes items", "nothing acknowledged is lost")
async def kill_during_upserts(stack: Stack) -> Tally:
    acknowledged: set[str] = set()
    retriever = stack.retriever
    await _killed_while(retriever, lambda: _upsert(retriever.target, f"new-{chance.random()}", acknowledged))
    _nothing_lost(await _unknown(retriever.target, sorted(acknowledged)), len(acknowledged))
    return Tally(acknowledged=len(acknowledged), lost=0)


@row("kill -9 of the gateway while it takes events", "nothing acknowledged is lost")
async def kill_during_events(stack: Stack) -> Tally:
    """Every acknowledged event counts in its person's next answers: the item is not recommended again."""
    acknowledged: dict[str, str] = {}
    item_ids = Bundle.open(stack.place.bundle).catalogue.item_ids
    prefix = f"user-{chance.random()}"

    async def write() -> None:
        async with grpc.aio.insecure_channel(stack.gateway.target, OWN_CHANNEL) as channel:
            stub = RecommenderServiceStub(channel)
            for number in range(100_000):
                event = recommender_pb2.LiveInteraction(
                    user_id=f"{prefix}-{number}", item_id=item_ids[number % len(item_ids)]
                )
                event.time.GetCurrentTime()
                request = recommender_pb2.RecordInteractionsRequest(interactions=[event])
                response = await stub.RecordInteractions(request, timeout=DEADLINE_S)
                if all(status.status.code == 0 for status in response.statuses):
                    acknowledged[event.user_id] = event.item_id

    await _killed_while(stack.gateway, write)
    _nothing_lost(await _forgotten(stack.gateway.target, acknowledged, len(item_ids)), len(acknowledged))
    return Tally(acknowledged=len(acknowledged), lost=0)


async def _forgotten(target: str, item_of_user: dict[str, str], num_items: int) -> list[str]:
    async with grpc.aio.insecure_channel(target, OWN_CHANNEL) as channel:
        stub = RecommenderServiceStub(channel)
        forgotten = []
        for user_id, item_id in item_of_user.items():
            request = recommender_pb2.RecommendRequest(
                query_type="QUERY_TYPE_USER_TO_ITEM", user_id=user_id, top_k=num_items, exclude_seen=True
            )
            answer = await stub.Recommend(request, timeout=10)
            if item_id in {item.item_id for item in answer.items}:
                forgotten.append(user_id)
    return forgotten


@row(
    "full disk under the retriever's state",
    "RESOURCE_EXHAUSTED, searches go on, nothing acknowledged is lost, also after a restart",
    on=None,
    tool="mount",
)
async def full_disk(place: Place) -> Tally:
    disk = place.scratch / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    acknowledged: set[str] = set()
    refused = 0
    retriever = ServiceProcess("retriever", "--bundle", str(place.bundle), CLOZEREC_STATE_DIR=str(disk))
    try:
        await retriever.start()
        for attempt in range(5):
            try:
                await _upsert(retriever.target, f"new-{attempt}-{'x' * 200}", acknowledged)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
                refused += 1
        _nothing_lost(await _unknown(retriever.target, sorted(acknowledged)), len(acknowledged))
        async with grpc.aio.insecure_channel(retriever.target) as channel:
            stub = RetrieverServiceStub(channel)
            await stub.ListPopular(retriever_pb2.ListPopularRequest(top_k=3), timeout=DEADLINE_S)
        # Starting writes too, and says so by name while the disk is full; then somebody makes room.
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        await retriever.restart()
        _nothing_lost(await _unknown(retriever.target, sorted(acknowledged)), len(acknowledged))
    finally:
        await retriever.stop()
        subprocess.run(["umount", str(disk)], check=True)
    return Tally({"acknowledged": len(acknowledged), "calls refused": refused, "lost": 0})


@row(
    "memory cap: the kernel kills the retriever in the middle of upserts",
    "nothing acknowledged is lost, the gateway falls back meanwhile; it restarts clean",
    tool=MEMORY_GROUP,
)
async def memory_cap(stack: Stack) -> Tally:
    acknowledged: set[str] = set()
    retriever = stack.retriever
    with limited_growth(retriever.pid, GROWTH_MB):
        with suppress(grpc.aio.AioRpcError):  # of the call that the kill met
            await _upsert(retriever.target, f"large-{chance.random()}", acknowledged, LARGE_TITLE)
        async with asyncio.timeout(RECOVERY_S):
            assert await retriever.wait() == -signal.SIGKILL, "something else ended it"
    outcome = Outcome()
    await stack.asker.ask(0, outcome)
    assert outcome.fallback == 1, outcome
    await retriever.start()
    _nothing_lost(await _unknown(retriever.target, sorted(acknowledged)), len(acknowledged))
    await stack.asker.until_right(RECOVERY_S, outcome)
    return Tally({"acknowledged": len(acknowledged), "lost": 0})


@row(
    "kill -9 of a training at a random moment, its export included; started again",
    "the same weights, bit for bit, as of one that was left alone; never half a bundle",
    on=None,
)
async def kill_training(place: Place) -> Tally:
    payload = toy_world.write_toy_payload(place.scratch, **SHORT_TRAINING)
    whole = await _trained_whole()
    moment = chance.choice(KILLED_AFTER)
    for attempt in range(KILL_TRIES):
        output = place.scratch / f"bundles-{attempt}"
        training = await _training(payload, output)
        await _says(training, moment)
        await asyncio.sleep(chance.random() * whole.took_s[moment])
        was_killed = training.returncode is None
        if was_killed:
            training.kill()
        await training.communicate()
        if was_killed:
            break
    else:
        raise AssertionError(f"{KILL_TRIES} trainings were done before their kill came")
    for left in output.glob("[!.]*"):
        Bundle.open(left)
    training = await _training(payload, output)
    await training.communicate()
    assert training.returncode == 0
    (newest, *_) = sorted((path for path in output.glob("[!.]*") if not path.is_symlink()), reverse=True)
    assert Bundle.open(newest).manifest.files[WEIGHTS] == whole.weights, "other weights than without the kill"
    return Tally({f"killed after {each}": int(each == moment) for each in KILLED_AFTER} | {"other weights": 0})


KILL_TRIES = 3
"""A machine that was busier when the whole training was measured is quicker now, and done before the kill."""

KILLED_AFTER = ("steps_begin", "writing_bundle")
"""What a training says last before its kill: it learns, and judges what it learned; or it writes the bundle."""


@dataclass(frozen=True)
class Whole:
    """A training that was left alone."""

    weights: FileEntry
    took_s: dict[str, float]
    """From what it says to the next of these moments, or to its end: so long a kill may wait."""


_whole: Whole | None = None


async def _trained_whole() -> Whole:
    """Trained once."""
    global _whole
    if _whole is None:
        with tempfile.TemporaryDirectory() as scratch:
            payload = toy_world.write_toy_payload(Path(scratch), **SHORT_TRAINING)
            training = await _training(payload, Path(scratch) / "bundles")
            began = [await _says(training, moment) for moment in (*KILLED_AFTER, "bundle_published")]
            await training.communicate()
            took_s = dict(zip(KILLED_AFTER, np.diff(began).tolist(), strict=True))
            _whole = Whole(Bundle.open(Path(scratch) / "bundles" / "current").manifest.files[WEIGHTS], took_s)
    return _whole


async def _says(training: asyncio.subprocess.Process, event: str) -> float:
    """Wait for a line of its log; when that came."""
    assert training.stderr is not None
    async for line in training.stderr:
        if json.loads(line)["event"] == event:
            return time.monotonic()
    raise AssertionError(f"it ended, {await training.wait()}, and never said {event}")


async def _training(payload: Path, output: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clozerec_cli", "train", str(payload), "--output", str(output)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
