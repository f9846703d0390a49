"""The text engine for the bundle: MiniLM as an ONNX graph with its tokenizer, so that serving needs neither torch nor a
model hub.

Shapes: B batch, L tokens, C content_dim.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from clozerec_core import bundle as names
from clozerec_core.errors import UsageError
from clozerec_trainer.item_features import TextModel, save_atomically

CONTENT_VECTOR = "content_vector"

_VERSION = 1
"""Raise it when `TextGraph` changes, so that cached graphs are made anew."""

_PROBE = "red running shoes"
_LEAST_COSINE = 0.999


class TextGraph(nn.Module):
    """A BERT with mean pooling, as sentence-transformers runs MiniLM."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """L2-normalised content vectors `[B, C]` of token ids `[B, L]`."""
        hidden_BLC = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        counted_BL1 = attention_mask.to(hidden_BLC.dtype).unsqueeze(-1)
        pooled_BC = (hidden_BLC * counted_BL1).sum(dim=1) / counted_BL1.sum(dim=1).clamp(min=1e-9)
        return F.normalize(pooled_BC, dim=-1)


def write_text_engine(text_model: TextModel, staging: Path, cache_dir: Path) -> None:
    """`text/model.onnx` and `text/tokenizer.json`; the graph, slow to make, is kept in the cache.

    Raises:
        UsageError: the model pools otherwise than by the mean.
    """
    (staging / names.TOKENIZER).parent.mkdir()
    tokenizer = Tokenizer.from_file(str(text_model.directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(staging / names.TOKENIZER))
    key = hashlib.sha256(f"{text_model.sha256} {torch.__version__} {_VERSION}".encode()).hexdigest()
    cached = cache_dir / f"text-{key[:32]}.onnx"
    if not cached.is_file():
        save_atomically(cached, lambda path: _export(text_model, tokenizer, path))
    shutil.copyfile(cached, staging / names.TEXT_MODEL)


def _export(text_model: TextModel, tokenizer: Tokenizer, path: Path) -> None:
    sentences = text_model.load()
    graph = TextGraph(sentences[0].model).eval()
    ids_BL = torch.tensor([tokenizer.encode(_PROBE).ids])
    with _quiet_exporter(), torch.no_grad():
        ours_C = graph(ids_BL, torch.ones_like(ids_BL))[0].numpy()
        theirs_C = sentences.encode(_PROBE, normalize_embeddings=True, show_progress_bar=False)
        if float(np.dot(ours_C, theirs_C)) < _LEAST_COSINE:
            raise UsageError(f"text_model {text_model.name} does not pool by the mean; choose one that does, as MiniLM")
        batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=512)
        axes = {0: batch, 1: tokens}
        torch.onnx.export(
            graph,
            (ids_BL.repeat(2, 1), torch.ones_like(ids_BL).repeat(2, 1)),
            path,
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=[CONTENT_VECTOR],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            external_data=False,
            optimize=True,
            verbose=False,
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of its own deprecated calls; nothing in them is ours to mend."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        try:
            yield
        finally:
            logger.setLevel(level)
