"""The bundles that an encoder serves: the current one and, during a roll-out, those that callers still mean.

Callers move from one bundle to the next at their own pace, and each names the one it means. `bundle_watch.py` says when
to load, switch and release; no call is cut off by any of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from clozerec_core.bundle import TEXT_FILES, Bundle
from clozerec_core.errors import BundleMismatch
from clozerec_encoder.encoder import Encoder
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.text import TextEngine, Texts


@dataclass(eq=False)
class _Loaded:
    """One bundle in memory, and who uses it."""

    encoder: Encoder
    text_key: tuple[object, ...]
    num_calls: int = 0
    released: bool = False


class LoadedBundles:
    """Bundles by id. Everything but `load` belongs to the event loop's thread."""

    def __init__(self, first: Bundle, settings: EncoderSettings) -> None:
        """Load and warm the bundle to start with."""
        self._settings = settings
        self._loaded: dict[str, _Loaded] = {}
        self.load(first)
        self.make_current(first.bundle_id)

    @property
    def current(self) -> Encoder:
        return self._current.encoder

    @property
    def bundle_ids(self) -> list[str]:
        """Of all that are loaded, the current one last."""
        others = [bundle_id for bundle_id, loaded in self._loaded.items() if loaded is not self._current]
        return [*others, self.current.bundle_id]

    def get(self, bundle_id: str) -> Encoder | None:
        """The encoder of a bundle, for use before the event loop's next turn; None: it is not loaded."""
        loaded = self._loaded.get(bundle_id)
        return None if loaded is None else loaded.encoder

    @contextmanager
    def using(self, bundle_id: str) -> Iterator[Encoder]:
        """The encoder of a bundle, which stays open meanwhile; empty means the current one.

        Raises:
            BundleMismatch: it is not loaded.
        """
        loaded = self._loaded.get(bundle_id) if bundle_id else self._current
        if loaded is None:
            raise BundleMismatch(bundle_id, self.current.bundle_id)
        loaded.num_calls += 1
        try:
            yield loaded.encoder
        finally:
            loaded.num_calls -= 1
            if loaded.released and loaded.num_calls == 0:
                self._close_aside(loaded)

    def load(self, bundle: Bundle) -> None:
        """Load and warm a bundle beside the others, on any thread; from then on calls may name it.

        The text engine, by far the largest part, is shared where it is the same.
        """
        key = _text_key(bundle)
        texts = next((each.encoder.texts for each in list(self._loaded.values()) if each.text_key == key), None)
        with ExitStack() as unless_loaded:
            if texts is None and bundle.manifest.text is not None:
                texts = Texts(TextEngine(bundle, bundle.manifest.text, self._settings), self._settings)
                unless_loaded.callback(texts.close)
                texts.warm_up()
            encoder = Encoder(bundle, self._settings, texts)
            unless_loaded.callback(encoder.close)
            encoder.warm_up()
            unless_loaded.pop_all()
        self._loaded[bundle.bundle_id] = _Loaded(encoder, key)

    def make_current(self, bundle_id: str) -> None:
        """Let calls that name no bundle mean this one."""
        self._current = self._loaded[bundle_id]

    def release(self, bundle_id: str) -> None:
        """Forget a bundle that is not the current one; calls under way with it end first."""
        loaded = self._loaded.pop(bundle_id)
        assert loaded is not self._current, "the current bundle stays"
        loaded.released = True
        if loaded.num_calls == 0:
            self._close_aside(loaded)

    def close(self) -> None:
        """Let go of everything, once no call is under way."""
        while self._loaded:
            _, loaded = self._loaded.popitem()
            self._close(loaded)

    def _close_aside(self, loaded: _Loaded) -> None:
        """Threads may have to end a batch that nobody waits for any more."""
        threading.Thread(target=self._close, args=(loaded,), name="release").start()

    def _close(self, loaded: _Loaded) -> None:
        loaded.encoder.close()
        texts = loaded.encoder.texts
        if texts is not None and all(each.encoder.texts is not texts for each in list(self._loaded.values())):
            texts.close()


def _text_key(bundle: Bundle) -> tuple[object, ...]:
    """Equal for bundles whose text engines are the same."""
    text = bundle.manifest.text
    return () if text is None else (text.max_tokens, *(bundle.manifest.files[name].sha256 for name in TEXT_FILES))
