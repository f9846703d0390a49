"""MovieLens-100K as two CSV files and a payload, for the demo.

The data come inside the wheel of recbole 1.2.1, which is fetched and read as an archive, never installed or imported.
MovieLens data are GroupLens's: free for research, not for revenue without permission, not to be passed on; see TERMS.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clozerec_core.bundle import sha256_of
from clozerec_core.errors import ClozerecError

TERMS = (
    "MovieLens-100K, (c) GroupLens, University of Minnesota: for research; no revenue-bearing use without permission, "
    "no redistribution. F. M. Harper, J. A. Konstan (2015), The MovieLens Datasets, ACM TiiS 5(4), 19."
)

_REQUIREMENT = "recbole==1.2.1"
_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_INSIDE = "recbole/dataset_example/ml-100k/ml-100k"

PAYLOAD = """\
# What the demo trains on; docs/tuning.md explains each key. The training keys come from the preset demo-movielens-100k.
interactions: interactions.csv
items: items.csv
user_column: user_id
item_column: item_id
timestamp_column: timestamp
metadata_columns: [title, genres]
list_columns: {genres: "|"}
display_name: title
"""
PRESET = "demo-movielens-100k"


def prepare(directory: Path) -> Path:
    """Write `interactions.csv`, `items.csv` and `payload.yaml`, fetching what is not there; returns the payload.

    Raises:
        ClozerecError: the wheel cannot be had or is not the one that we know.
    """
    directory.mkdir(parents=True, exist_ok=True)
    payload, interactions, items = (directory / name for name in ("payload.yaml", "interactions.csv", "items.csv"))
    if not (interactions.exists() and items.exists()):
        with zipfile.ZipFile(_wheel(directory)) as archive:
            events = ([row["user_id"], row["item_id"], row["timestamp"]] for row in _table(archive, ".inter"))
            _write(interactions, ["user_id", "item_id", "timestamp"], events)
            films = (
                [row["item_id"], row["movie_title"], _year(row["release_year"]), row["class"].replace(" ", "|")]
                for row in _table(archive, ".item")
            )
            _write(items, ["item_id", "title", "year", "genres"], films)
    if not payload.exists():
        payload.write_text(PAYLOAD, encoding="utf-8")
    return payload


def _wheel(directory: Path) -> Path:
    wheel = directory / _WHEEL
    if not wheel.exists():
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(directory),
            _REQUIREMENT,
        ]
        fetched = subprocess.run(fetch, capture_output=True, text=True, check=False)  # noqa: S603  # our own words only
        if fetched.returncode != 0:
            reason = (fetched.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise ClozerecError(
                f"MovieLens-100K could not be fetched with pip ({reason}); is the package index reachable?"
            )
    if sha256_of(wheel) != _WHEEL_SHA256:
        raise ClozerecError(f"{wheel} is not the file we know (its SHA-256 differs); remove it and try again")
    return wheel


def _table(archive: zipfile.ZipFile, suffix: str) -> Iterator[dict[str, str]]:
    """Rows of a RecBole table: tab-separated, headers such as `item_id:token`."""
    with archive.open(_INSIDE + suffix) as raw:
        rows = csv.reader(io.TextIOWrapper(raw, encoding="utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE)
        header = [name.split(":")[0] for name in next(rows)]
        for row in rows:
            yield dict(zip(header, row, strict=True))


def _year(text: str) -> str:
    """Empty where the table has something else, as it does for two films."""
    return text if text.isdigit() else ""


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write whole or not at all: an interrupted demo must not leave half a table to the next one."""
    fresh = path.with_suffix(".part")
    with fresh.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    fresh.replace(path)
