"""Write the files of a bundle: arrays, the index, the sequence network, the tables. No reader of them needs torch.

Shapes: N items, E events, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import polars as pl
from safetensors.numpy import save_file

from clozerec_core import bundle as names
from clozerec_core.catalogue import Catalogue
from clozerec_core.errors import ClozerecError
from clozerec_core.history_file import Rows, Times, write_histories
from clozerec_core.hybrid import Floats, ItemSpace
from clozerec_core.search_file import SearchFile
from clozerec_trainer.data import Log
from clozerec_trainer.encoder_graph import write_encoder
from clozerec_trainer.model import HybridBert4Rec
from clozerec_trainer.search_index import Quantisation, build


def write_model(model: HybridBert4Rec, staging: Path, quantisation: Quantisation = "none") -> SearchFile | None:
    """Weights, item vectors, content vectors, the index over the vectors, and the sequence network.

    What it returns says which recall the index has; None: a small catalogue's, which is exact.
    """
    weights = model.to_weights()
    if not all(np.isfinite(tensor).all() for tensor in weights.values()):
        raise ClozerecError("the trained weights are not numbers; lower learning_rate and keep gradient_clipping on")
    content_NC = model.content.vectors_NC
    vectors_ND = ItemSpace.from_weights(weights, "output").catalogue_vectors(content_NC)
    save_file(weights, staging / names.WEIGHTS)
    np.save(staging / names.CONTENT, content_NC, allow_pickle=False)
    np.save(staging / names.VECTORS, vectors_ND, allow_pickle=False)
    search_file = write_index(vectors_ND, staging, quantisation)
    write_encoder(model.network, staging / names.ENCODER)
    return search_file


def write_index(vectors_ND: Floats, staging: Path, quantisation: Quantisation = "none") -> SearchFile | None:
    """The index over item vectors, and for a large catalogue what searching it needs."""
    index, search_file = build(vectors_ND, quantisation)
    faiss.write_index(index, str(staging / names.INDEX))
    if search_file is not None:
        search_file.save(staging / names.SEARCH)
    return search_file


def write_tables(catalogue: Catalogue, log: Log, staging: Path) -> None:
    """Catalogue, popularity and histories. The last two hold every event: they are served, not judged."""
    catalogue.to_parquet_frame().write_parquet(staging / names.CATALOGUE)
    popularity_frame(catalogue, log).write_parquet(staging / names.POPULARITY)
    write_histories(staging / names.HISTORIES, _histories(log))


def popularity_frame(catalogue: Catalogue, log: Log) -> pl.DataFrame:
    """Every item with its number of events, the most popular first, ties by row."""
    counts_N = np.bincount(log.rows_E, minlength=len(catalogue)).astype(np.int64)
    rows_N = np.lexsort((np.arange(len(catalogue)), -counts_N)).astype(np.uint32)
    item_ids = [catalogue.item_ids[row] for row in rows_N]
    return pl.DataFrame({"row": rows_N, "item_id": item_ids, "count": counts_N[rows_N]})


def _histories(log: Log) -> Iterator[tuple[str, Rows, Times]]:
    rows_E = log.rows_E.astype(np.uint32)
    for user_id, start, stop in zip(log.user_ids, log.starts_U1[:-1], log.starts_U1[1:], strict=True):
        yield user_id, rows_E[start:stop], log.times_us_E[start:stop]
