"""CSV and Parquet files in, Polars frames out. Ids are text whatever they look like: `007` is not `7`."""

from __future__ import annotations

import csv
import glob
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from clozerec_core.errors import UsageError
from clozerec_core.wording import suggest

MAX_ID_BYTES = 256

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Scan:
    """One or more files as one table, maybe larger than memory: only its columns' names and types are read."""

    name: str
    """What messages call it: the path as the payload gives it."""
    frame: pl.LazyFrame
    """The rows in their order."""
    sha256: str
    """Of the files' bytes, one after the other."""

    @cached_property
    def schema(self) -> pl.Schema:
        return self.frame.collect_schema()

    def where(self, column: str) -> str:
        """How messages name a column."""
        return f'{self.name}, column "{column}"'

    def require(self, columns: Iterable[str]) -> None:
        """Refuse the table unless it has these columns."""
        for column in columns:
            if column not in self.schema:
                raise UsageError(
                    f'{self.name} has no column "{column}"{suggest(column, self.schema.names())}; it has '
                    f"{', '.join(self.schema.names())}"
                )

    def require_ids(self, column: str) -> None:
        """Refuse the column unless its type can hold ids."""
        dtype = self.schema[column]
        if not (dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum)):
            raise UsageError(f"{self.where(column)} holds {dtype}; ids are text or whole numbers")

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Stream what `frame`, derived from this table, asks for.

        Raises:
            UsageError: a file is damaged.
        """
        try:
            return frame.collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UsageError(f"cannot read {self.name}: {_brief(error)}") from None

    def ids(self, column: str) -> pl.Series:
        """A column of ids as text, each 1 to 256 bytes."""
        self.require_ids(column)
        ids = self.collect(self.frame.select(pl.col(column).cast(pl.String))).to_series()
        lengths = ids.str.len_bytes().fill_null(0)
        for wrong, fault in (
            (lengths == 0, "ids are missing or empty"),
            (lengths > MAX_ID_BYTES, f"ids are longer than {MAX_ID_BYTES} bytes"),
        ):
            if wrong.any():
                first = wrong.arg_true()[0] + 1
                raise UsageError(f"{self.where(column)}: {wrong.sum()} {fault}, the first in row {first}")
        return ids


@dataclass(frozen=True)
class Table(Scan):
    """A table in memory."""

    rows: pl.DataFrame


def read_table(path: Path, text_columns: Sequence[str]) -> Table:
    """Read a file or a glob of files.

    Args:
        path: CSV (`.csv`, `.tsv`) or Parquet (`.parquet`).
        text_columns: columns that are text in a CSV whatever they look like, where they exist.

    Raises:
        UsageError: no such file, unreadable, of another kind, or without rows.
    """
    scan = scan_table(path, text_columns)
    return Table(scan.name, scan.frame, scan.sha256, scan.collect(scan.frame))


def scan_table(path: Path, text_columns: Sequence[str]) -> Scan:
    """The same as `read_table`, but to be streamed.

    Raises:
        UsageError: no such file, unreadable, of another kind, or without rows.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory; give its files as a glob, such as {path / '*.parquet'}")
    files = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    if not files:
        raise UsageError(f"{path} does not exist; give a CSV or Parquet file, or a glob that matches some")
    digest = hashlib.sha256()
    frames = []
    for file in files:
        frames.append(_scan_file(file, text_columns))
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    try:
        frame = pl.concat(frames, how="vertical_relaxed")
        num_rows = frame.select(pl.len()).collect(engine="streaming").item()
    except pl.exceptions.ShapeError as error:
        raise UsageError(f"the files of {path} do not have the same columns and types: {_brief(error)}") from None
    if num_rows == 0:
        raise UsageError(f"{path} is empty: it has no rows")
    return Scan(str(path), frame, digest.hexdigest())


def _scan_file(file: Path, text_columns: Sequence[str]) -> pl.LazyFrame:
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            frame = pl.scan_parquet(file, glob=False, hive_partitioning=False)
        elif suffix in _SEPARATORS:
            separator = _SEPARATORS[suffix]
            with file.open(encoding="utf-8-sig", newline="") as stream:
                header = next(csv.reader(stream, delimiter=separator), [])
            _check_header(header, file)
            frame = pl.scan_csv(
                file,
                separator=separator,
                schema_overrides={column: pl.String for column in text_columns if column in header},
                infer_schema_length=None,
                glob=False,
            )
        else:
            raise UsageError(f"{file} is neither CSV nor Parquet: its name must end in .csv, .tsv or .parquet")
        frame.collect_schema()
    except pl.exceptions.NoDataError:
        raise UsageError(f"{file} is empty: it has no rows") from None
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {file}: {_brief(error)}") from None
    return frame


def _check_header(header: Sequence[str], file: Path) -> None:
    """Polars would rename such columns without a word."""
    for position, name in enumerate(header, start=1):
        if not name.strip():
            raise UsageError(f"{file}: column {position} has no name; name it, or leave it out (an index, perhaps?)")
        if name in header[: position - 1]:
            raise UsageError(f'{file} has two columns "{name}"; rename one')


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
