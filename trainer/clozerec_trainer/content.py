"""The catalogue's texts as vectors, with the text model that made them, if the payload asks for texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clozerec_core.errors import UsageError
from clozerec_trainer.data import Dataset
from clozerec_trainer.item_features import Content, TextModel, embed, find_text_model, item_texts, no_content, whiten
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter


def content_of(
    dataset: Dataset, payload: Payload, cache_dir: Path, reporter: Reporter
) -> tuple[Content, TextModel | None]:
    """Whitened content vectors of every item; empty ones without `metadata_columns`.

    Raises:
        UsageError: the text model is not there, or the columns hold fewer than two texts.
    """
    if not payload.metadata_columns:
        return no_content(len(dataset.catalogue)), None
    text_model = find_text_model(payload.text_model)
    vectors_NC = embed(item_texts(dataset.catalogue, payload.metadata_columns), text_model, cache_dir, reporter)
    # Vectors rather than texts: the model may not tell "Foo" from "foo".
    if len(np.unique(vectors_NC[vectors_NC.any(axis=1)], axis=0)) < 2:
        raise UsageError(f"the columns {', '.join(payload.metadata_columns)} hold fewer than two texts; leave them out")
    return whiten(vectors_NC, payload.content_dims), text_model
