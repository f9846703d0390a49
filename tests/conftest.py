"""Bundles and servers that many tests share; each is made once."""

from __future__ import annotations

import pytest
import toy_world
from hypothesis import HealthCheck, settings

from clozerec_core.bundle import Bundle

# The same examples on every run and machine, and no time limit on any of them.
settings.register_profile(
    "clozerec",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)
# As often as a proof by numbers asks for: make test-thorough
settings.register_profile("thorough", settings.get_profile("clozerec"), max_examples=100)
settings.load_profile("clozerec")


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Cyclic shoppers, ids alone."""
    return toy_world.train_toy_bundle(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy_text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Cyclic shoppers, ids and MiniLM embeddings of the titles."""
    return toy_world.train_toy_bundle(tmp_path_factory.mktemp("toy-text"), metadata_columns=["title"])
