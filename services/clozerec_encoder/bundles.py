"""The bundles that an encoder serves: the current one and, during a roll-out, those that callers still mean.

Callers move from one bundle to the next at their own pace, and each names the one it means. So a bundle that is no
longer current stays until nobody has asked for it for a while, and no call is cut off by a switch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clozerec_core.bundle import TEXT_FILES, Bundle
from clozerec_core.errors import BundleMismatch
from clozerec_core.telemetry import BUNDLE_RELEASED, BUNDLE_SWITCHED, get_logger
from clozerec_encoder.encoder import Encoder
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.text import TextEngine, Texts

log = get_logger("encoder")


class _Loaded:
    """One bundle in memory, and who uses it."""

    def __init__(self, bundle: Bundle, encoder: Encoder) -> None:
        self.encoder = encoder
        self.text_key = _text_key(bundle)
        self.num_calls = 0
        self.last_asked = time.monotonic()

    def unused_for(self, seconds: float) -> bool:
        """Whether no call is under way, and none has ended for so long."""
        return self.num_calls == 0 and time.monotonic() - self.last_asked >= seconds


class LoadedBundles:
    """Bundles by id. Everything but `load` belongs to the event loop's thread."""

    def __init__(self, first: Bundle, settings: EncoderSettings) -> None:
        """Load and warm the bundle to start with."""
        self._settings = settings
        self._loaded: dict[str, _Loaded] = {}
        self.switch_to(self.load(first))

    @property
    def current(self) -> Encoder:
        return self._current.encoder

    @property
    def bundle_ids(self) -> list[str]:
        """Of all that are loaded, the current one last."""
        return list(self._loaded)

    @contextmanager
    def using(self, bundle_id: str) -> Iterator[Encoder]:
        """The encoder of a bundle, which stays loaded meanwhile; empty means the current one.

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
            loaded.last_asked = time.monotonic()

    def load(self, bundle: Bundle) -> _Loaded:
        """Load a bundle beside the others and warm it, on any thread: it answers nobody yet.

        The text engine, by far the largest part, is shared where it is the same.
        """
        key = _text_key(bundle)
        texts = next((each.encoder.texts for each in list(self._loaded.values()) if each.text_key == key), None)
        if texts is None and bundle.manifest.text is not None:
            texts = Texts(TextEngine(bundle, bundle.manifest.text, self._settings), self._settings)
            texts.warm_up()
        encoder = Encoder(bundle, self._settings, texts)
        encoder.warm_up()
        return _Loaded(bundle, encoder)

    def switch_to(self, loaded: _Loaded) -> None:
        """Answer from this bundle from now on; those before stay for the callers that name them."""
        bundle_id = loaded.encoder.bundle_id
        self._loaded.pop(bundle_id, None)
        self._loaded[bundle_id] = self._current = loaded
        log.info(BUNDLE_SWITCHED, bundle_id=bundle_id, loaded=self.bundle_ids)

    async def release_idle(self, idle_s: float) -> list[str]:
        """Let go of bundles that are not current and that nobody asked for in so long; their ids."""
        idle = [each for each in self._loaded.values() if each is not self._current and each.unused_for(idle_s)]
        for loaded in idle:
            del self._loaded[loaded.encoder.bundle_id]
            await asyncio.to_thread(self._close, loaded)
            log.info(BUNDLE_RELEASED, bundle_id=loaded.encoder.bundle_id)
        return [loaded.encoder.bundle_id for loaded in idle]

    def close(self) -> None:
        """Let go of everything, once no call is under way."""
        for bundle_id in self.bundle_ids:
            self._close(self._loaded.pop(bundle_id))

    def _close(self, loaded: _Loaded) -> None:
        loaded.encoder.close()
        texts = loaded.encoder.texts
        if texts is not None and all(each.encoder.texts is not texts for each in list(self._loaded.values())):
            texts.close()


def _text_key(bundle: Bundle) -> tuple[object, ...]:
    """Equal for bundles whose text engines are the same."""
    text = bundle.manifest.text
    return () if text is None else (text.max_tokens, *(bundle.manifest.files[name].sha256 for name in TEXT_FILES))
