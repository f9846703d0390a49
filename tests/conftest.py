"""Bundles and servers that many tests share; each is made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_world

from clozerec_core.bundle import Bundle


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Cyclic shoppers, ids alone."""
    return toy_world.train_toy_bundle(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy_text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Cyclic shoppers, ids and MiniLM embeddings of the titles."""
    return toy_world.train_toy_bundle(tmp_path_factory.mktemp("toy-text"), metadata_columns=["title"])


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The measuring data beside the checkout; tests that need it are skipped where it is absent."""
    directory = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not directory.is_dir():
        pytest.skip(f"needs MovieLens-1M and Amazon Beauty as Parquet in {directory.name}/ beside the checkout")
    return directory
