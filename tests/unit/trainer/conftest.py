"""What the trainer's tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import toy_world

from clozerec_core.bundle import Bundle
from clozerec_trainer.payload import Payload, parse_payload
from clozerec_trainer.train import train

Keys = dict[str, Any]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Worlds this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Payload keys of the toy world with absolute paths."""
    directory = tmp_path_factory.mktemp("toy")
    keys = toy_world.write_toy_data(directory)
    return {**keys, "interactions": str(directory / "interactions.parquet"), "items": str(directory / "items.parquet")}


@pytest.fixture(scope="session")
def quick_keys(toy_keys: Keys) -> Keys:
    """The same with a model too small and too hasty to learn, for tests that ask for something else."""
    return {
        **toy_keys,
        "hidden_size": 8,
        "max_sequence_length": 4,
        "training_epochs": 2,
        "validate_every": 2,
        "dropout_rate": 0.1,
    }


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that knows the cycle; no text engine."""
    return toy_world.train_toy_bundle(tmp_path_factory.mktemp("toy-bundle"))


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with MiniLM inside and sides of their own."""
    return toy_world.train_toy_bundle(
        tmp_path_factory.mktemp("text-bundle"), metadata_columns=["title"], weight_tying=False, training_epochs=3
    )


@pytest.fixture
def quick_bundle(quick_keys: Keys, tmp_path: Path) -> Callable[..., Bundle]:
    """Trains with `quick_keys` and what is passed."""

    def build(**overrides: Any) -> Bundle:
        return train(parse_payload({**quick_keys, **overrides}, tmp_path), tmp_path / "bundles").bundle

    return build


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Payload]:
    """A payload over interactions, and maybe items, given as columns; CSV unless the name says otherwise."""

    def write(interactions: Keys | str, items: Keys | str | None = None, suffix: str = ".csv", **keys: Any) -> Payload:
        document = {"user_column": "user", "item_column": "item", "timestamp_column": "time", **keys}
        for name, content in (("interactions", interactions), ("items", items)):
            if content is not None:
                path = tmp_path / f"{name}{suffix}"
                _write(path, content)
                document[name] = str(path)
        return parse_payload(document, tmp_path)

    return write


def _write(path: Path, content: Keys | str) -> None:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".parquet":
        pl.DataFrame(content).write_parquet(path)
    else:
        pl.DataFrame(content).write_csv(path)
