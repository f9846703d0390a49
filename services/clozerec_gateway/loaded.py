"""The bundles that a gateway answers from: the current one, and during a roll-out the one before."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from clozerec_core.bundle import Bundle
from clozerec_core.errors import BundleMismatch, StalePage
from clozerec_gateway.paging import Page
from clozerec_gateway.pipeline import Pipeline

READY_TRIES, READY_POLL_S = 300, 0.2
"""How often a gateway asks encoder and retriever whether they have a new bundle too, before it switches; after a minute
it does so anyway, and answers without them until they have it."""


class PipelineFactory(Protocol):
    """Makes pipelines."""

    def pipeline(self, bundle: Bundle) -> Pipeline:
        """The pipeline of one bundle; blocking."""
        ...

    async def read_notes(self, pipeline: Pipeline) -> None:
        """Let it know what callers changed so far."""
        ...


class LoadedBundles:
    """Pipelines by bundle id; a `bundle_watch.Part`."""

    def __init__(self, current: Pipeline, factory: PipelineFactory, loop: asyncio.AbstractEventLoop) -> None:
        self.pipelines: Sequence[Pipeline] = (current,)
        """The current one first."""
        self.switched = asyncio.Event()
        """Another one became the current one."""
        self._factory = factory
        self._loop = loop
        self._num_users: Counter[Pipeline] = Counter()
        """Of each pipeline that requests are answered from."""

    @property
    def current(self) -> Pipeline:
        return self.pipelines[0]

    def get(self, bundle_id: str) -> Pipeline:
        """The pipeline of a bundle; empty means the current one.

        Raises:
            BundleMismatch: it is not loaded.
        """
        if not bundle_id:
            return self.current
        for pipeline in self.pipelines:
            if pipeline.manifest.bundle_id == bundle_id:
                return pipeline
        raise BundleMismatch(bundle_id, self.current.manifest.bundle_id)

    def of_page(self, page: Page) -> Pipeline:
        """The pipeline that a page belongs to.

        Raises:
            StalePage: its bundle is gone.
        """
        try:
            return self.get(page.ranked.bundle_id)
        except BundleMismatch:
            raise StalePage("the bundle of this page is not loaded any more; ask for the first page again") from None

    @contextmanager
    def using(self, *pipelines: Pipeline) -> Iterator[None]:
        """These stay open meanwhile, released or not."""
        for pipeline in pipelines:
            self._num_users[pipeline] += 1
        try:
            yield
        finally:
            for pipeline in pipelines:
                self._num_users[pipeline] -= 1
                self._close_unused(pipeline)

    def load(self, bundle: Bundle) -> None:
        """Make a pipeline beside the current one, and wait for the other services to have the bundle; blocking."""
        with ExitStack() as unless_loaded:
            pipeline = self._factory.pipeline(bundle)
            unless_loaded.callback(pipeline.close)
            asyncio.run_coroutine_threadsafe(self._prepare(pipeline), self._loop).result()
            self.pipelines = (*self.pipelines, pipeline)
            unless_loaded.pop_all()

    def make_current(self, bundle_id: str) -> None:
        """Let requests that name no bundle mean this one."""
        current = self.get(bundle_id)
        self.pipelines = (current, *(each for each in self.pipelines if each is not current))
        self.switched.set()

    def release(self, bundle_id: str) -> None:
        """Forget a bundle that is not the current one; requests that are answered from it end first."""
        gone = self.get(bundle_id)
        self.pipelines = tuple(each for each in self.pipelines if each is not gone)
        self._close_unused(gone)

    def close(self) -> None:
        """Let go of all of them."""
        for pipeline in self.pipelines:
            pipeline.close()

    def _close_unused(self, pipeline: Pipeline) -> None:
        """Close a released one once nobody uses it, on a thread: its own may have work under way."""
        if not self._num_users[pipeline]:
            del self._num_users[pipeline]
            if pipeline not in self.pipelines:
                threading.Thread(target=pipeline.close, name="release").start()

    async def _prepare(self, pipeline: Pipeline) -> None:
        await self._factory.read_notes(pipeline)
        for _ in range(READY_TRIES):
            if await pipeline.is_served():
                break
            await asyncio.sleep(READY_POLL_S)
