"""Bundles that are damaged, and bundles that change under load."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

from faults.asking import Outcome
from faults.processes import ServiceProcess
from faults.stack import Stack, during
from faults.table import Arrangement, Rates, check, row, until

LINKED = Arrangement(follows_link=True)
KINDS = ("truncated", "one bit flipped", "foreign file")
AROUND_S = 2.0
"""Before and around a switch, throughput is measured for so long."""
IN_FLIGHT = 16
LARGEST_DIP = 0.2


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


@row(
    "bundle truncated, one bit flipped, a file of another put in",
    "refused by name by every part; the last good one keeps serving; no process starts from it",
    on=LINKED,
)
async def damaged_bundle(stack: Stack) -> Outcome:
    outcome = Outcome()
    good = stack.link.resolve()
    bad = stack.link.with_name("bad")
    for kind in KINDS:
        _damaged(kind, good, bad)
        await during(stack.asker.at_rate(stack.rate_per_s, 0.5, outcome), 0.1, partial(_all_refuse, stack, bad))
        if kind == KINDS[-1]:
            await _refuses_to_start(bad)
        stack.point(good)
        shutil.rmtree(bad)
    check(outcome, fallbacks=False)
    return outcome


async def _all_refuse(stack: Stack, bad: Path) -> None:
    refused = [len(process.said("bundle_refused")) for process in stack.processes]
    stack.point(bad)

    async def all_said_so() -> bool:
        counts = zip(stack.processes, refused, strict=True)
        return all(len(process.said("bundle_refused")) > count for process, count in counts)

    await until(all_said_so)
    for process in stack.processes:
        assert "vectors.npy" in str(process.said("bundle_refused")[-1]), process.said("bundle_refused")[-1]


async def _refuses_to_start(bad: Path) -> None:
    lone = ServiceProcess("retriever", "--bundle", str(bad))
    try:
        await lone.start()
    except RuntimeError as error:
        assert "vectors.npy" in str(error), error
    else:
        await lone.stop()
        raise AssertionError("a process started from a damaged bundle")


@row(
    "roll-out: the bundle switches under load, each part at a moment of its own",
    "0 errors, 0 answers that mix two bundles, throughput dips by less than 20%",
    on=LINKED,
)
async def switch_bundles(stack: Stack) -> Rates:
    """As many calls under way all the time, so that any work the switch costs shows in the throughput."""
    here, there = stack.place.bundle.resolve(), stack.place.other_bundle.resolve()
    target = there if stack.link.resolve() == here else here
    outcome, right_at = Outcome(), list[float]()
    if len(stack.asker.learned) == 1:
        for bundle in (target, here if target == there else there):
            await _switch(stack, bundle)
            await stack.asker.learn()
    began = time.monotonic()
    load = stack.asker.closed_loop(outcome, 2 * AROUND_S, IN_FLIGHT, right_at.append)
    await during(load, AROUND_S, partial(_switch, stack, target))
    before = sum(moment < began + AROUND_S for moment in right_at)
    share = (len(right_at) - before) / before
    check(outcome, fallbacks=False)
    assert share > 1 - LARGEST_DIP, f"throughput fell to {share:.0%}; {outcome}"
    return Rates("of the throughput before the switch", [share], outcome)


async def _switch(stack: Stack, bundle: Path) -> None:
    """Point the link, and wait until the gateway has followed; it is the last to."""
    switched = len(stack.gateway.said("bundle_switched"))
    stack.point(bundle)

    async def has_followed() -> bool:
        return len(stack.gateway.said("bundle_switched")) > switched

    await until(has_followed)
