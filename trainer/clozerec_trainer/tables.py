"""CSV and Parquet files in, Polars frames out. Ids are text whatever they look like: `007` is not `7`."""

from __future__ import annotations

import csv
import glob
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from clozerec_core.errors import UsageError
from clozerec_core.wording import suggest

MAX_ID_BYTES = 256

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Table:
    """The rows of one or more files, in their order."""

    name: str
    """What messages call it: the path as the payload gives it."""
    frame: pl.DataFrame
    sha256: str
    """Of the files' bytes, one after the other."""

    def where(self, column: str) -> str:
        """How messages name a column."""
        return f'{self.name}, column "{column}"'

    def require(self, columns: Iterable[str]) -> None:
        """Refuse the table unless it has these columns."""
        for column in columns:
            if column not in self.frame.columns:
                raise UsageError(
                    f'{self.name} has no column "{column}"{suggest(column, self.frame.columns)}; it has '
                    f"{', '.join(self.frame.columns)}"
                )

    def ids(self, column: str) -> pl.Series:
        """A column of ids as text, each 1 to 256 bytes."""
        values = self.frame.get_column(column)
        if not (values.dtype.is_integer() or values.dtype in (pl.String, pl.Categorical, pl.Enum)):
            raise UsageError(f"{self.where(column)} holds {values.dtype}; ids are text or whole numbers")
        ids = values.cast(pl.String)
        lengths = ids.str.len_bytes().fill_null(0)
        for wrong, fault in (
            (lengths == 0, "ids are missing or empty"),
            (lengths > MAX_ID_BYTES, f"ids are longer than {MAX_ID_BYTES} bytes"),
        ):
            if wrong.any():
                first = wrong.arg_true()[0] + 1
                raise UsageError(f"{self.where(column)}: {wrong.sum()} {fault}, the first in row {first}")
        return ids


def read_table(path: Path, text_columns: Sequence[str]) -> Table:
    """Read a file or a glob of files.

    Args:
        path: CSV (`.csv`, `.tsv`) or Parquet (`.parquet`).
        text_columns: columns that are text in a CSV whatever they look like, where they exist.

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
        frames.append(_read_file(file, text_columns))
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    try:
        frame = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"the files of {path} do not have the same columns and types: {_brief(error)}") from None
    if frame.is_empty():
        raise UsageError(f"{path} is empty: it has no rows")
    return Table(str(path), frame, digest.hexdigest())


def _read_file(file: Path, text_columns: Sequence[str]) -> pl.DataFrame:
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            return pl.read_parquet(file, glob=False, hive_partitioning=False)
        if suffix in _SEPARATORS:
            separator = _SEPARATORS[suffix]
            with file.open(encoding="utf-8-sig", newline="") as stream:
                header = next(csv.reader(stream, delimiter=separator), [])
            _check_header(header, file)
            return pl.read_csv(
                file,
                separator=separator,
                schema_overrides={column: pl.String for column in text_columns if column in header},
                infer_schema_length=None,
                glob=False,
            )
    except pl.exceptions.NoDataError:
        raise UsageError(f"{file} is empty: it has no rows") from None
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {file}: {_brief(error)}") from None
    raise UsageError(f"{file} is neither CSV nor Parquet: its name must end in .csv, .tsv or .parquet")


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
