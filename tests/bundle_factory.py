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
    VECTORS,
    WEIGHTS,
    Bundle,
    Manifest,
    ModelInfo,
    ServingInfo,
    publish,
    writing_directory,
)
from clozerec_core.catalogue import POLARS_TYPES, Catalogue, ColumnType, Schema
from clozerec_core.history_file import write_histories
from clozerec_core.hybrid import Floats, normalise


def random_vectors(num_items: int, dim: int, seed: int = 0) -> Floats:
    """Unit vectors `[num_items, dim]`."""
    return normalise(np.random.default_rng(seed).normal(size=(num_items, dim)).astype(np.float32))


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
) -> None:
    """Every file of a bundle but the manifest."""
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
    nothing = {
        "content.mean": np.zeros(0, np.float32),
        "content.whitening": np.zeros((0, 0), np.float32),
    }
    for side in ("input", "output"):
        nothing[f"items.{side}.projection"] = np.zeros((dim, 0), np.float32)
        nothing[f"items.{side}.bias"] = np.zeros(dim, np.float32)
        nothing[f"items.{side}.behaviour"] = vectors_ND
    save_file(nothing, directory / WEIGHTS)


def write_bundle(
    output_dir: Path,
    catalogue: Catalogue,
    vectors_ND: Floats,
    counts: Sequence[int],
    content_NC: Floats | None = None,
    histories: Mapping[str, Sequence[int]] | None = None,
    **changes: Any,
) -> Bundle:
    """A whole bundle, published and opened; `changes` go into the manifest."""
    manifest = make_manifest(catalogue.schema, *vectors_ND.shape, **changes)
    with writing_directory(output_dir) as staging:
        write_files(staging, catalogue, vectors_ND, counts, content_NC, histories)
        published = publish(staging, output_dir, manifest)
    return Bundle.open(published.path)
