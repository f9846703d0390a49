"""The bundle: an immutable directory with everything that serving needs, written whole or not at all.

This module alone opens, verifies and writes bundles; docs/bundle.md describes the files. Nothing in a bundle is
executed: JSON, Parquet, NumPy arrays, safetensors, ONNX, a FAISS index and SQLite. Every byte is covered by a SHA-256,
the manifest by its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.numpy import load_file

from clozerec_core.catalogue import Catalogue, ColumnType
from clozerec_core.errors import BadBundle, UsageError
from clozerec_core.hybrid import Floats

FORMAT_VERSION = 3
"""Raise it when an older reader would misread a bundle; readers keep reading every older version.

2: `encoder.onnx` reads the sum of item and position.
"""

MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
TEXT_MODEL = "text/model.onnx"
TOKENIZER = "text/tokenizer.json"
WEIGHTS = "weights.safetensors"
CATALOGUE = "catalogue.parquet"
VECTORS = "vectors.npy"
CONTENT = "content.npy"
INDEX = "index.faiss"
POPULARITY = "popularity.parquet"
HISTORIES = "histories.sqlite"
SEARCH = "search.safetensors"
"""Only large catalogues have one."""

REQUIRED_FILES = (ENCODER, WEIGHTS, CATALOGUE, VECTORS, CONTENT, INDEX, POPULARITY, HISTORIES)
TEXT_FILES = (TEXT_MODEL, TOKENIZER)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """What a file must be."""

    size: int
    sha256: str


class ModelInfo(_Strict):
    """What the services need to know of the network."""

    dim: int
    max_sequence_length: int
    """Items beside the mask; the network has one position more."""
    use_attention_mask: bool
    """False: the network was trained reading its padding, so sequences are padded to full length."""
    num_items: int


class TextInfo(_Strict):
    """The text engine: which model, and how an item's text is made."""

    model: str
    sha256: str
    """Of the model's original weights: content vectors of equal models are interchangeable."""
    content_dim: int
    max_tokens: int
    columns: tuple[str, ...]


class ServingInfo(_Strict):
    """Defaults of requests."""

    top_k_results: int
    exclude_seen: bool


class Manifest(_Strict):
    """`manifest.json`."""

    format_version: int
    bundle_id: str
    created_at: str
    model: ModelInfo
    text: TextInfo | None
    serving: ServingInfo
    schema_: dict[str, ColumnType]
    payload: dict[str, Any]
    data: dict[str, Any]
    """Fingerprint and counts of what was read."""
    split: dict[str, Any]
    """How the metrics' held-out events were chosen, with boundaries."""
    metrics: dict[str, Any]
    libraries: dict[str, str]
    files: dict[str, FileEntry]
    checksum: str = ""
    """SHA-256 of this document with an empty checksum."""

    def render(self) -> bytes:
        """The one way to write this manifest down. Keys keep their order: the schema's is that of the items table."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()

    def sealed(self) -> Manifest:
        """With its checksum filled in."""
        bare = self.model_copy(update={"checksum": ""})
        return self.model_copy(update={"checksum": hashlib.sha256(bare.render()).hexdigest()})


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Files are read when first asked for, and arrays are memory-mapped."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open a bundle directory, or a symlink to one, after verifying every file.

        Raises:
            BadBundle: a file is missing, damaged, or of a newer format; the message names it.
        """
        directory = path.resolve()
        manifest = read_manifest(directory, path)
        required = REQUIRED_FILES + (TEXT_FILES if manifest.text else ())
        for name in sorted({*required, *manifest.files}):
            entry = manifest.files.get(name)
            if entry is None:
                raise BadBundle(f"{MANIFEST} of bundle {path} does not list {name}; train again")
            _verify(directory, name, entry)
        return cls(directory, manifest)

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    def file(self, name: str) -> Path:
        """Where a file of the bundle lies."""
        return self.path / name

    @cached_property
    def catalogue(self) -> Catalogue:
        table = pl.read_parquet(self.file(CATALOGUE))
        catalogue = Catalogue.from_parquet_frame(table, self.manifest.schema_)
        if len(catalogue) != self.manifest.model.num_items:
            raise BadBundle(f"{CATALOGUE} of bundle {self.path} has {len(catalogue)} items, not as {MANIFEST} says")
        return catalogue

    @cached_property
    def vectors(self) -> Floats:
        """Output-side item vectors `[N, D]`, L2-normalised; a zero row has neither text nor behaviour."""
        vectors: Floats = np.load(self.file(VECTORS), mmap_mode="r", allow_pickle=False)
        return vectors

    @cached_property
    def content(self) -> Floats:
        """Content vectors `[N, C]`; a zero row has no text. C is 0 without a text engine."""
        content: Floats = np.load(self.file(CONTENT), mmap_mode="r", allow_pickle=False)
        return content

    def weights(self) -> dict[str, Floats]:
        """The network's tensors by name. Read anew at each call, so that a service keeps only what it uses."""
        tensors: dict[str, Floats] = load_file(self.file(WEIGHTS))
        return tensors

    @cached_property
    def popularity_counts(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Interactions of each item, `[N]`, over every event that the trainer read."""
        table = pl.read_parquet(self.file(POPULARITY))
        counts = np.zeros(self.manifest.model.num_items, np.int64)
        counts[table["row"].to_numpy()] = table["count"].to_numpy()
        return counts


@contextmanager
def writing_directory(output_dir: Path) -> Iterator[Path]:
    """A temporary directory inside `output_dir` for the files of a new bundle; removed unless `publish` renamed it.

    Raises:
        UsageError: `output_dir` cannot be made or written to.
    """
    link = output_dir / "current"
    if link.exists() and not link.is_symlink():
        raise UsageError(f"{link} is no symlink; move it away, or choose another output directory")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=output_dir))
    except OSError as error:
        raise UsageError(f"cannot write to output directory {output_dir}: {error.strerror}") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, output_dir: Path, manifest: Manifest) -> Bundle:
    """Seal the files in `staging` with a manifest and give the directory its final name, `output_dir/bundle_id`.

    Everything is fsynced before the rename, so a crash leaves either the whole bundle or none.
    """
    names = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
    files = {name: FileEntry(size=(staging / name).stat().st_size, sha256=sha256_of(staging / name)) for name in names}
    sealed = manifest.model_copy(update={"files": files}).sealed()
    (staging / MANIFEST).write_bytes(sealed.render())
    # The services may run as another user than the trainer; some writers make their files private.
    for path in (staging, *staging.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in sorted(staging.rglob("*")):
        _fsync(path)
    _fsync(staging)
    final = output_dir / sealed.bundle_id
    staging.rename(final)
    _fsync(output_dir)
    return Bundle(final.resolve(), sealed)


def point_current(bundle: Bundle) -> Path:
    """Let the symlink `current` beside the bundle name it, in one atomic step; returns the link."""
    link = bundle.path.parent / "current"
    fresh = link.with_name(f".current-{bundle.bundle_id}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(bundle.path.name)
    fresh.replace(link)
    _fsync(bundle.path.parent)
    return link


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path, shown: Path | None = None) -> Manifest:
    """The sound manifest of a bundle directory; its files are not looked at.

    Args:
        directory: where it lies.
        shown: how messages call it.

    Raises:
        BadBundle: it is missing, damaged or of a newer format.
    """
    shown = shown or directory
    try:
        raw = (directory / MANIFEST).read_bytes()
    except OSError:
        hint = f"; did you mean {shown / 'current'}?" if (directory / "current").is_symlink() else ""
        raise BadBundle(f"{shown} is no bundle: {MANIFEST} is missing or unreadable{hint}") from None
    try:
        document: Mapping[str, Any] = json.loads(raw)
        version = document["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadBundle(f"{MANIFEST} of bundle {shown} is damaged") from None
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise BadBundle(
            f"{MANIFEST} of bundle {shown} has format version {version}, which is newer than this release "
            f"(it reads up to {FORMAT_VERSION}): upgrade"
        )
    try:
        manifest = Manifest.model_validate(document)
        sound = manifest.sealed().checksum == manifest.checksum and manifest.render() == raw
    except (ValidationError, UnicodeEncodeError):  # the latter: half of a surrogate pair, which is no text
        raise BadBundle(f"{MANIFEST} of bundle {shown} is damaged") from None
    if not sound:
        raise BadBundle(f"{MANIFEST} of bundle {shown} is damaged: its checksum does not match")
    return manifest


def _verify(directory: Path, name: str, entry: FileEntry) -> None:
    path = directory / name
    if not path.resolve().is_relative_to(directory):
        raise BadBundle(f"{MANIFEST} of bundle {directory} names a file outside of it: {name}")
    if not path.is_file():
        raise BadBundle(f"{name} is missing from bundle {directory}")
    if path.stat().st_size != entry.size:
        size = path.stat().st_size
        raise BadBundle(f"{name} of bundle {directory} is damaged: it has {size} bytes, not {entry.size}")
    if sha256_of(path) != entry.sha256:
        raise BadBundle(f"{name} of bundle {directory} is damaged: its checksum does not match")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
