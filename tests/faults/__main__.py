"""Break things and write down what happened.

    python -m faults [--repeat N] [--bundle DIR] [--write] [ROW ...]      every row by default
    python -m faults --soak MINUTES | --fuzz REQUESTS | --overhead

Needs root for the rows that drop packets or fill a disk; they are skipped, with the reason, where that is missing.
`--write` puts the table into docs/reliability.md.
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
from pathlib import Path

from faults.fuzz import fuzz
from faults.rows import ROWS, Place, overhead, soak

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "v1" / "bundle"
REPORT = REPOSITORY / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
NEEDS_ROOT = {"partition_the_encoder": "nft", "partition_the_retriever": "nft", "full_disk": "mount"}


def main() -> int:
    """Run what was asked for; 1 if a row did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--bundle", type=Path, default=GOLDEN)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--fuzz", type=int, metavar="REQUESTS")
    parser.add_argument("--overhead", action="store_true", help="TLS, tokens, metrics and tracing, against none")
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if given.soak is not None:
        print(asyncio.run(_in_scratch(lambda place: soak(place, given.soak), given.bundle)))
        return 0
    if given.overhead:
        print(asyncio.run(_in_scratch(overhead, given.bundle)))
        return 0
    if given.fuzz is not None:
        print(asyncio.run(_in_scratch(lambda place: fuzz(place, given.fuzz), given.bundle)))
        return 0
    lines, failed = [], False
    for name in given.rows or ROWS:
        line, held = _repeat(name, given.repeat, given.bundle)
        print(line, flush=True)
        lines.append(line)
        failed |= not held
    if given.write:
        _write(lines)
    return 1 if failed else 0


def _repeat(name: str, times: int, bundle: Path) -> tuple[str, bool]:
    fault, expected, do = ROWS[name]
    tool = NEEDS_ROOT.get(name)
    if tool and (os.geteuid() != 0 or shutil.which(tool) is None):
        return f"| {fault} | {expected} | skipped | needs root and {tool} |", True
    held, said = 0, ""
    began = time.monotonic()
    for _ in range(times):
        try:
            said = asyncio.run(_in_scratch(do, bundle))
            held += 1
        except Exception as error:  # noqa: BLE001  # a row that fails is a finding, and the others still run
            traceback.print_exc(file=sys.stderr)
            said = f"**{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}**"
            break
    took = f"{time.monotonic() - began:.0f} s"
    return f"| {fault} | {expected} | {held} of {times} in {took} | {said} |", held == times


async def _in_scratch(do, bundle: Path) -> str:  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory(prefix="clozerec-faults-") as scratch:
        return await do(Place(bundle, Path(scratch)))


def _write(lines: list[str]) -> None:
    text = REPORT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    table = "\n".join(["| fault, under load | expected | held | seen (last run) |", "|---|---|---|---|", *lines])
    REPORT.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
