"""What earlier runs saw, kept beside the code, and the table that docs/reliability.md shows of it.

Runs add up: twenty repetitions may come from several runs, and the table says of which versions they are.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from faults.table import ROWS

REPOSITORY = Path(__file__).parents[2]
KEPT = Path(__file__).with_name("results.json")
REPORT = REPOSITORY / "docs" / "reliability.md"


@dataclass
class Series:
    """Repetitions of one row by one run."""

    version: str
    date: str
    held: int
    of: int
    took_s: float
    seen: str
    """Of all repetitions of the series together; the failure where one failed."""


@dataclass
class Results:
    """By row, oldest series first."""

    series: dict[str, list[Series]] = field(default_factory=dict)
    slices: list[dict[str, object]] = field(default_factory=list)
    """Of the fuzzer."""
    measured: dict[str, dict[str, str]] = field(default_factory=dict)
    """The last soak, and the last comparison with all that is optional."""

    def held(self, name: str) -> int:
        """Repetitions of a row that held since the last that did not."""
        count = 0
        for each in reversed(self.series.get(name, [])):
            count += each.held
            if each.held < each.of:
                break
        return count

    def add(self, name: str, series: Series) -> None:
        """A series more."""
        self.series.setdefault(name, []).append(series)

    def forget(self, names: Sequence[str]) -> None:
        """Start these rows anew."""
        for name in names:
            self.series.pop(name, None)

    def save(self) -> None:
        """Keep them, and show them in the report."""
        document = {
            "series": {name: [asdict(each) for each in self.series[name]] for name in sorted(self.series)},
            "slices": self.slices,
            "measured": self.measured,
        }
        KEPT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        text = _between(REPORT.read_text(encoding="utf-8"), "faults", self._table())
        text = _between(text, "fuzz", self._fuzz())
        for name in ("soak", "overhead"):
            text = _between(text, name, self._measured(name))
        REPORT.write_text(text, encoding="utf-8")

    def _table(self) -> str:
        lines = ["| fault, under load | expected | held | version | seen (last series) |", "|---|---|---|---|---|"]
        for name, row in ROWS.items():
            all_series = self.series.get(name, [])
            if not all_series:
                lines.append(f"| {row.fault} | {row.expected} | not measured | | |")
                continue
            held, of = sum(each.held for each in all_series), sum(each.of for each in all_series)
            versions = ", ".join(dict.fromkeys(each.version for each in all_series))
            lines.append(f"| {row.fault} | {row.expected} | {held} of {of} | {versions} | {all_series[-1].seen} |")
        return "\n".join(lines)

    def _measured(self, name: str) -> str:
        if name not in self.measured:
            return "Not measured."
        last = self.measured[name]
        return f"Version {last['version']}: {last['seen']}."

    def _fuzz(self) -> str:
        total = sum(int(str(each["requests"])) for each in self.slices)
        if not total:
            return "Not measured."
        worst = max(float(str(each["growth"])) for each in self.slices)
        faults = sum(int(str(each["faults"])) for each in self.slices)
        versions = ", ".join(dict.fromkeys(str(each["version"]) for each in self.slices))
        return (
            f"{total:,} fuzzed requests in {len(self.slices)} slices (version {versions}): {faults} answered with "
            f"INTERNAL, UNKNOWN, UNAVAILABLE or inner text; memory grew by {worst:+.1%} at most in a slice."
        )


def load() -> Results:
    """What is kept; nothing at first."""
    if not KEPT.exists():
        return Results()
    document = json.loads(KEPT.read_text(encoding="utf-8"))
    return Results(
        {name: [Series(**each) for each in all_series] for name, all_series in document["series"].items()},
        document["slices"],
        document["measured"],
    )


def version() -> str:
    """The last commit that changed what runs."""
    command = ["git", "log", "-1", "--format=%h", "--", "services", "protos", "trainer"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def today() -> str:
    """As the report writes it."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _between(text: str, name: str, content: str) -> str:
    """The text with another content between its marks of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{content}\n{end}{after}"
