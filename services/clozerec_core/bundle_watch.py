"""Following a bundle link while a service runs: load beside the old, verify, warm, switch, release.

The link (`current`) says which bundle is the current one; pointing it back is the rollback. Calls that name the old
bundle are answered for a while after a switch, for the other services switch at moments of their own. A bundle that
cannot be opened is logged and left alone, and the last good one keeps serving.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from pydantic import Field

from clozerec_core import metrics
from clozerec_core.bundle import MANIFEST, Bundle, read_manifest
from clozerec_core.errors import BadBundle, ClozerecError
from clozerec_core.garbage import release
from clozerec_core.settings import Settings
from clozerec_core.telemetry import BUNDLE_OPENED, get_logger

BUNDLE_REFUSED = "bundle_refused"
BUNDLE_SWITCHED = "bundle_switched"
BUNDLE_RELEASED = "bundle_released"
BUNDLE_REMOVED = "bundle_removed"

log = get_logger("bundles")


class WatchSettings(Settings):
    """Base of every process that serves a bundle."""

    bundle: Path = Field(description="A bundle directory, or a symlink to one, which is then followed.")
    bundle_poll_s: float = Field(2.0, gt=0, description="Seconds between two looks at the symlink.")
    bundle_linger_s: float = Field(
        60.0, ge=0, description="Seconds that the last bundle still answers after a switch, to calls that name it."
    )
    bundle_retention: int = Field(
        0,
        ge=0,
        description="How many bundles to keep on disk beside the symlink, the newest and what is loaded always; older "
        "ones are deleted after a switch. 0 keeps all.",
    )


class Part(Protocol):
    """What a service does with bundles. `load` blocks and runs on a thread, the others return at once."""

    def load(self, bundle: Bundle) -> None:
        """Load and warm a verified bundle; from then on calls may name it."""
        ...

    def make_current(self, bundle_id: str) -> None:
        """Let calls that name no bundle mean this one, which is loaded."""
        ...

    def release(self, bundle_id: str) -> None:
        """Forget a loaded bundle that is not the current one."""
        ...


class Together:
    """Parts of one process that follow the link in step, or not at all."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts

    def load(self, bundle: Bundle) -> None:
        with ExitStack() as unless_all_have_it:
            for part in self._parts:
                part.load(bundle)
                unless_all_have_it.callback(part.release, bundle.bundle_id)
            unless_all_have_it.pop_all()

    def make_current(self, bundle_id: str) -> None:
        for part in self._parts:
            part.make_current(bundle_id)

    def release(self, bundle_id: str) -> None:
        for part in reversed(self._parts):
            part.release(bundle_id)


class BundleWatch:
    """Keeps one part on the bundle that a link names."""

    def __init__(
        self,
        part: Part,
        current: Bundle,
        settings: WatchSettings,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            part: has `current` loaded already.
            current: what `settings.bundle` named when it was opened.
            settings: the link, and how to treat it.
            name: of the part, for metrics.
            clock: seconds, monotonic.
        """
        self._part = part
        self._settings = settings
        self._name = name
        self._clock = clock
        self._current = current
        self._refused: Path | None = None
        self._lingering: dict[str, tuple[Bundle, float]] = {}
        """Loaded, but no longer current, until a time of the clock."""

    async def run(self) -> None:
        """Look at the link again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.bundle_poll_s)
            await self.look()

    async def look(self) -> None:
        """Switch where the link names another bundle, and release what has lingered long enough."""
        await self._release_expired()
        target = await asyncio.to_thread(self._settings.bundle.resolve)
        if target == self._current.path:
            self._refused = None
        elif target != self._refused:
            await self._switch(target)

    async def _switch(self, target: Path) -> None:
        try:
            bundle = await self._loaded(target)
        except Exception as error:  # whatever it is, the last good bundle keeps serving
            # Said once: the link has to change before it is tried again.
            self._refused = target
            known = isinstance(error, ClozerecError)
            log.error(
                BUNDLE_REFUSED,
                path=str(target),
                serving=self._current.bundle_id,
                message=str(error),
                exc_info=None if known else error,
            )
            return
        last, self._current = self._current, bundle
        self._part.make_current(bundle.bundle_id)
        self._refused = None
        self._lingering.pop(bundle.bundle_id, None)
        self._lingering[last.bundle_id] = last, self._clock() + self._settings.bundle_linger_s
        metrics.BUNDLE_INFO.labels(self._name, bundle.bundle_id).set(1)
        log.info(BUNDLE_SWITCHED, bundle_id=bundle.bundle_id, last=last.bundle_id)
        if self._settings.bundle_retention:
            loaded = {bundle.bundle_id, *self._lingering}
            await asyncio.to_thread(remove_old_bundles, bundle.path.parent, self._settings.bundle_retention, loaded)

    async def _loaded(self, target: Path) -> Bundle:
        """The bundle that lies there, loaded; one that lingers still is."""
        for lingering, _ in self._lingering.values():
            if lingering.path == target:
                return lingering
        bundle = await asyncio.to_thread(Bundle.open, target)
        log.info(BUNDLE_OPENED, bundle_id=bundle.bundle_id, path=str(bundle.path))
        await asyncio.to_thread(self._part.load, bundle)
        await asyncio.to_thread(release)
        return bundle

    async def _release_expired(self) -> None:
        now = self._clock()
        expired = [bundle_id for bundle_id, (_, until) in self._lingering.items() if until <= now]
        for bundle_id in expired:
            del self._lingering[bundle_id]
            self._part.release(bundle_id)
            metrics.BUNDLE_INFO.remove(self._name, bundle_id)
            log.info(BUNDLE_RELEASED, bundle_id=bundle_id)
        if expired:
            # Caches hold on to their owners in circles, and there may be gigabytes in them.
            await asyncio.to_thread(release)


def remove_old_bundles(directory: Path, num_kept: int, in_use: Collection[str]) -> None:
    """Delete all bundles in a directory but the newest, those that a link names, and those in use.

    Args:
        directory: holds bundles by their ids; anything else in it is left alone.
        num_kept: bundles that stay in any case, the newest, 1 or more.
        in_use: ids of bundles that stay, whatever their age.
    """
    linked = {path.resolve().name for path in directory.iterdir() if path.is_symlink()}
    bundles = []
    for path in directory.iterdir():
        if path.is_symlink() or path.name.startswith(".") or not (path / MANIFEST).is_file():
            continue
        try:
            manifest = read_manifest(path)
        except BadBundle:
            continue  # a person should look at it
        if manifest.bundle_id == path.name:
            bundles.append((manifest.created_at, path))
    for _, path in sorted(bundles, reverse=True)[num_kept:]:
        if path.name not in linked and path.name not in in_use:
            shutil.rmtree(path, ignore_errors=True)
            log.info(BUNDLE_REMOVED, path=str(path))
