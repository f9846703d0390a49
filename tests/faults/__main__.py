"""Break things and write down what happened.

    python -m faults [--repeat N] [--minutes M] [--write] [ROW ...]      every row by default
    python -m faults --soak MINUTES | --fuzz REQUESTS | --overhead

`--write` keeps the results in tests/faults/results.json and shows them in docs/reliability.md. Then `--repeat 20` runs
what is missing to twenty, so that a long series may be cut into pieces. Rows that need root or a program are skipped,
with the reason, where that is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from redis_server import PROGRAM as REDIS

from faults import rows_bundles, rows_durability, rows_identity, rows_load, rows_processes  # noqa: F401  # enter rows
from faults.asking import Outcome
from faults.endurance import overhead, soak
from faults.fuzz import fuzz
from faults.limits import MEMORY_GROUP, memory_groups
from faults.results import Results, Series, load, today, version
from faults.stack import Stack, stack
from faults.table import RECOVERY_S, ROWS, Place, Row, Seen

GOLDEN = Path(__file__).parents[1] / "golden"


def main() -> int:
    """Run what was asked for; 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--repeat", type=int, default=1, help="of each row; with --write, what is kept counts")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no repetition after so long")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--anew", action="store_true", help="forget what is kept of these rows")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--fuzz", type=int, metavar="REQUESTS")
    parser.add_argument("--overhead", action="store_true", help="TLS, tokens, metrics and tracing, against none")
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results = load() if given.write else Results()
    with tempfile.TemporaryDirectory(prefix="clozerec-faults-") as scratch:
        place = Place(GOLDEN / "v1" / "bundle", GOLDEN / "v2" / "bundle", Path(scratch))
        if given.soak is not None or given.overhead:
            measured = asyncio.run(overhead(place) if given.overhead else soak(place, given.soak))
            print(measured)
            if given.write:
                results = load()  # a series may have added to them meanwhile
                results.measured["overhead" if given.overhead else "soak"] = {
                    "version": version(),
                    "date": today(),
                    "seen": str(measured),
                }
                results.save()
            return int(bool(measured.faults))
        if given.fuzz is not None:
            found = asyncio.run(fuzz(place, given.fuzz, seed=len(results.slices)))
            print(found)
            if given.write:
                results = load()
                results.slices.append({"version": version(), "date": today(), **found.kept()})
                results.save()
            return int(not found.held)
        names = given.rows or list(ROWS)
        if given.anew:
            results.forget(names)
        ends = time.monotonic() + given.minutes * 60
        return asyncio.run(Runner(place, results, ends, given.write).run(names, given.repeat))


class Runner:
    """Goes through rows, one arrangement of processes after the other."""

    def __init__(self, place: Place, results: Results, ends: float, writes: bool) -> None:
        self._place = place
        self._results = results
        self._ends = ends
        self._writes = writes
        self._num_stacks = 0
        self._running: Stack | None = None
        self._cleanup = AsyncExitStack()

    async def run(self, names: Sequence[str], repeat: int) -> int:
        """1 if one did not hold."""
        failed = False
        order = list(dict.fromkeys(ROWS[name].arrangement for name in names))
        for arrangement in order:
            for name in names:
                if ROWS[name].arrangement == arrangement:
                    failed |= not await self._series(name, repeat - self._results.held(name))
            await self._stop()
        return int(failed)

    async def _series(self, name: str, times: int) -> bool:
        row = ROWS[name]
        if (reason := _missing(row)) is not None:
            print(f"{name}: skipped, {reason}", flush=True)
            return True
        began = time.monotonic()
        seen: Seen | None = None
        failure, held, of = "", 0, 0
        while of < times and time.monotonic() < self._ends:
            of += 1
            try:
                now = await self._once(row)
            except Exception as error:  # noqa: BLE001  # a row that fails is a finding, and the others still run
                traceback.print_exc(file=sys.stderr)
                failure = f"**{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}**"
                await self._stop()
                continue
            held += 1
            if seen is None:
                seen = now
            else:
                seen += now  # type: ignore[operator]  # of one kind in one row
        if not of:
            return True
        series = Series(version(), today(), held, of, round(time.monotonic() - began, 1), failure or str(seen))
        print(f"{name}: held {held} of {of} in {series.took_s:.0f} s; {series.seen}", flush=True)
        if self._writes:
            self._results = load()  # another run may have added to them meanwhile
        self._results.add(name, series)
        if self._writes:
            self._results.save()
        return held == of

    async def _once(self, row: Row) -> Seen:
        self._num_stacks += 1
        if row.arrangement is None:
            return await row.do(self._place.apart(str(self._num_stacks)))
        if self._running is None:
            place = self._place.apart(str(self._num_stacks))
            self._running = await self._cleanup.enter_async_context(stack(row.arrangement, place))
        await self._running.asker.until_right(RECOVERY_S, Outcome())
        return await row.do(self._running)

    async def _stop(self) -> None:
        self._running = None
        await self._cleanup.aclose()


def _missing(row: Row) -> str | None:
    """Why a row cannot be tried here."""
    if row.arrangement is not None and row.arrangement.has_redis and not shutil.which(REDIS):
        return f"needs {REDIS}"
    if row.tool is None:
        return None
    if row.tool == MEMORY_GROUP:
        return None if os.geteuid() == 0 and memory_groups() is not None else "needs root and memory cgroups"
    return None if os.geteuid() == 0 and shutil.which(row.tool) else f"needs root and {row.tool}"


if __name__ == "__main__":
    raise SystemExit(main())
