"""Tiny bundles made by hand: the file format without a trainer, for tests whose subject is what reads a bundle.

`encoder.onnx` in them is a placeholder: nothing here encodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
from safetensors.numpy import save_file

from clozerec_core.bundle import (
    CATALOGUE,
    CONTENT,
    ENCODER,
    FORMAT_VERSION,
    HISTORIES,
    INDEX,
    POPULARITY,
    TEXT_FILES,
    VECTORS,
    WEIGHTS,
    Bundle,
    Manifest,
    ModelInfo,
    ServingInfo,
    TextInfo,
    publish,
    writing_directory,
)
from clozerec_core.catalogue import POLARS_TYPES, Catalogue, ColumnType, Schema
from clozerec_core.history_file import write_histories
from clozerec_core.hybrid import Floats, ItemSpace, normalise
from clozerec_retriever.space import OutputSpace


def random_vectors(num_items: int, dim: int, seed: int = 0) -> Floats:
    """Unit vectors `[num_items, dim]`."""
    return normalise(np.random.default_rng(seed).normal(size=(num_items, dim)).astype(np.float32))


class RowsInMemory:
    """A tensor that is read as safetensors reads one from disk."""

    def __init__(self, tensor: Floats) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def __getitem__(self, rows: slice) -> Floats:
        return self._tensor[rows]


def behaviour_alone(vectors_ND: Floats) -> OutputSpace:
    """The space of items without text."""
    dim = vectors_ND.shape[1]
    nothing = np.zeros((dim, 0), np.float32)
    space = ItemSpace(nothing[0], nothing.T, nothing, np.zeros(dim, np.float32), nothing.T)
    return OutputSpace(space, RowsInMemory(vectors_ND))


def make_catalogue(
    columns: Mapping[str, Sequence[object]],
    schema: Schema,
    item_ids: Sequence[str] | None = None,
    num_items: int | None = None,
) -> Catalogue:
    """A catalogue from Python values; ids are i0, i1, … and names Item 0, Item 1, … unless given."""
    size = len(next(iter(columns.values()))) if columns else num_items or len(item_ids or ())
    frame = pl.DataFrame(
        {name: pl.Series(name, columns[name], dtype=POLARS_TYPES[kind]) for name, kind in schema.items()}
    )
    ids = list(item_ids) if item_ids is not None else [f"i{row}" for row in range(size)]
    return Catalogue(ids, [f"Item {row}" for row in range(size)], frame, dict(schema))


def text_info(content_dim: int, model: str = "mini") -> TextInfo:
    """A text engine in name only."""
    return TextInfo(model=model, sha256="0" * 64, content_dim=content_dim, max_tokens=8, columns=("title",))


def make_manifest(
    schema: Mapping[str, ColumnType], num_items: int, dim: int, bundle_id: str = "tiny", **changes: Any
) -> Manifest:
    """An unsealed manifest."""
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bundle_id=bundle_id,
        created_at="2026-01-31T12:00:00Z",
        model=ModelInfo(dim=dim, max_sequence_length=5, use_attention_mask=True, num_items=num_items),
        text=None,
        serving=ServingInfo(top_k_results=3, exclude_seen=True),
        schema_=dict(schema),
        payload={"user_column": "user"},
        data={"num_interactions": 0},
        split={"kind": "leave-one-out"},
        metrics={"ndcg@10": 0.1},
        libraries={"polars": pl.__version__},
        files={},
    )
    return manifest.model_copy(update=changes)


def write_files(
    directory: Path,
    catalogue: Catalogue,
    vectors_ND: Floats,
    counts: Sequence[int],
    content_NC: Floats | None = None,
    histories: Mapping[str, Sequence[int]] | None = None,
    projection_DC: Floats | None = None,
) -> None:
    """Every file of a bundle but the manifest. Content is projected as it stands, unless `projection_DC` is given."""
    num_items, dim = vectors_ND.shape
    content_NC = np.zeros((num_items, 0), np.float32) if content_NC is None else content_NC
    (directory / ENCODER).write_bytes(b"a network would stand here")
    catalogue.to_parquet_frame().write_parquet(directory / CATALOGUE)
    np.save(directory / VECTORS, vectors_ND)
    np.save(directory / CONTENT, content_NC)
    index = faiss.IndexFlatIP(dim)
    index.add(vectors_ND)
    faiss.write_index(index, str(directory / INDEX))
    order = sorted(range(num_items), key=lambda row: (-counts[row], row))
    pl.DataFrame(
        {
            "row": pl.Series(order, dtype=pl.UInt32),
            "item_id": [catalogue.item_ids[row] for row in order],
            "count": pl.Series([counts[row] for row in order], dtype=pl.Int64),
        }
    ).write_parquet(directory / POPULARITY)
    write_histories(
        directory / HISTORIES,
        (
            (user_id, np.array(rows, np.uint32), np.arange(len(rows), dtype=np.int64))
            for user_id, rows in (histories or {"u1": [0]}).items()
        ),
    )
    # Behaviour is what is missing to make the vectors that were given.
    content_dim = content_NC.shape[1]
    projection = np.eye(dim, content_dim, dtype=np.float32) if projection_DC is None else projection_DC
    weights = {
        "content.mean": np.zeros(content_dim, np.float32),
        "content.whitening": np.eye(content_dim, dtype=np.float32),
    }
    for side in ("input", "output"):
        weights[f"items.{side}.projection"] = projection
        weights[f"items.{side}.bias"] = np.zeros(dim, np.float32)
        weights[f"items.{side}.behaviour"] = vectors_ND - content_NC @ projection.T
    save_file(weights, directory / WEIGHTS)


def write_bundle(
    output_dir: Path,
    catalogue: Catalogue,
    vectors_ND: Floats,
    counts: Sequence[int],
    content_NC: Floats | None = None,
    histories: Mapping[str, Sequence[int]] | None = None,
    projection_DC: Floats | None = None,
    **changes: Any,
) -> Bundle:
    """A whole bundle, published and opened; `changes` go into the manifest."""
    manifest = make_manifest(catalogue.schema, *vectors_ND.shape, **changes)
    with writing_directory(output_dir) as staging:
        write_files(staging, catalogue, vectors_ND, counts, content_NC, histories, projection_DC)
        if manifest.text:
            (staging / "text").mkdir()
            for name in TEXT_FILES:
                (staging / name).write_bytes(b"a text model would stand here")
        published = publish(staging, output_dir, manifest)
    return Bundle.open(published.path)
