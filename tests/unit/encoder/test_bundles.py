"""Two bundles at once: each call gets the one it names, and none is cut off by a switch or a release."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from bundle_factory import random_vectors
from encoder_bundle import random_network, torch_intent, write_encoder_bundle

from clozerec_core.bundle import Bundle
from clozerec_core.bundle_watch import Together
from clozerec_core.errors import BadBundle, BundleMismatch
from clozerec_encoder.bundles import LoadedBundles
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.tokens import TokenSequence
from clozerec_trainer.model import NetworkSpec

SPEC = NetworkSpec(12, 7, 2, 3, 0.1, True)
NETWORKS = {name: random_network(SPEC, seed) for seed, name in enumerate(("first", "second", "third"))}
SESSION = ["i3", "i14", "i15"]
INTENTS = {name: torch_intent(network, random_vectors(20, 12)[[3, 14, 15]], 3) for name, network in NETWORKS.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    directory = tmp_path_factory.mktemp("bundles")
    return {name: write_encoder_bundle(directory, network, bundle_id=name) for name, network in NETWORKS.items()}


@pytest.fixture
def loaded(made: dict[str, Bundle]) -> Iterator[LoadedBundles]:
    first = made["first"]
    bundles = LoadedBundles(first, EncoderSettings(bundle=first.path))
    yield bundles
    bundles.close()


async def ask(bundles: LoadedBundles, bundle_id: str) -> tuple[str, np.ndarray]:
    """Which bundle answered, and what."""
    with bundles.using(bundle_id) as encoder:
        (encoded,) = await encoder.encode(encoder.read([TokenSequence(SESSION)]), "")
        assert encoded.intent is not None
        return encoder.bundle_id, encoded.intent


class Refusing:
    """A part that cannot load any other bundle than the one it has."""

    def load(self, bundle: Bundle) -> None:
        raise BadBundle(f"{bundle.bundle_id} is not for me")

    def make_current(self, bundle_id: str) -> None:
        raise AssertionError("it has no other")

    release = make_current


def test_parts_of_one_process_load_a_bundle_together_or_not_at_all(
    loaded: LoadedBundles, made: dict[str, Bundle]
) -> None:
    with pytest.raises(BadBundle):
        Together(loaded, Refusing()).load(made["second"])
    assert loaded.bundle_ids == ["first"]
    Together(loaded).load(made["second"])
    assert loaded.bundle_ids == ["second", "first"]


async def test_a_call_is_answered_by_the_bundle_it_names(loaded: LoadedBundles, made: dict[str, Bundle]) -> None:
    loaded.load(made["second"])
    assert (await ask(loaded, "second"))[0] == "second"
    assert (await ask(loaded, ""))[0] == "first"
    loaded.make_current("second")
    assert loaded.bundle_ids == ["first", "second"]
    for asked, answering in (("", "second"), ("first", "first"), ("second", "second")):
        name, intent = await ask(loaded, asked)
        assert name == answering
        np.testing.assert_allclose(intent, INTENTS[answering], atol=1e-5)
    with pytest.raises(BundleMismatch, match='"third" is not loaded; the current one is "second"'):
        await ask(loaded, "third")


async def test_switches_and_releases_under_load_cause_no_error(loaded: LoadedBundles, made: dict[str, Bundle]) -> None:
    stopping = asyncio.Event()
    answered: list[str] = []

    async def keep_asking() -> None:
        while not stopping.is_set():
            name, intent = await ask(loaded, "")
            np.testing.assert_allclose(intent, INTENTS[name], atol=1e-5)
            answered.append(name)

    callers = [asyncio.create_task(keep_asking()) for _ in range(8)]
    for name in ("second", "third", "first"):
        last = loaded.current.bundle_id
        await asyncio.to_thread(loaded.load, made[name])
        loaded.make_current(name)
        loaded.release(last)
        while name not in answered:
            await ask(loaded, name)
        answered.clear()
    stopping.set()
    await asyncio.gather(*callers)
    assert loaded.bundle_ids == ["first"]


async def test_a_released_bundle_answers_the_calls_that_it_has_begun(
    loaded: LoadedBundles, made: dict[str, Bundle]
) -> None:
    loaded.load(made["second"])
    loaded.make_current("second")
    with loaded.using("first") as encoder:
        loaded.release("first")
        with pytest.raises(BundleMismatch):
            await ask(loaded, "first")
        (encoded,) = await encoder.encode(encoder.read([TokenSequence(SESSION)]), "")
        np.testing.assert_allclose(encoded.intent, INTENTS["first"], atol=1e-5)
    assert loaded.bundle_ids == ["second"]


def test_a_bundle_that_does_not_warm_up_leaves_no_threads(loaded: LoadedBundles, made: dict[str, Bundle]) -> None:
    """Its manifest speaks of longer sequences than its network has positions for."""
    second = made["second"]
    model = second.manifest.model.model_copy(update={"max_sequence_length": SPEC.num_positions + 3})
    wrong = replace(second, manifest=second.manifest.model_copy(update={"model": model}))
    threads = set(threading.enumerate())
    with pytest.raises(ValueError, match="broadcast"):
        loaded.load(wrong)
    assert set(threading.enumerate()) == threads
    assert loaded.bundle_ids == ["first"]
