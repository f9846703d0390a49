"""The one thread that changes the catalogue: it takes what callers sent meanwhile, commits it in one transaction, lets
every loaded bundle show it, and only then acknowledges.

Waiting for the disk costs the same for one change and for thousands, so whatever waits goes together. Where retrievers
share a log, changes are written there, and the thread brings journal and bundles up to it: its own changes come in
the log's order among all others, and a second thread waits for news of those.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from clozerec_core import metrics
from clozerec_core.catalogue import Schema
from clozerec_core.errors import ClozerecError, Overloaded
from clozerec_core.telemetry import get_logger
from clozerec_retriever.journal import Journal
from clozerec_retriever.records import Change, ItemRecord
from clozerec_retriever.replica import Replica

MAX_WAITING = 20_000
"""Changes that may wait for the disk; beyond it callers hear at once that it is too much."""

MAX_TOGETHER = 5_000
"""Changes committed in one transaction: more would only make the first of them wait."""

RETRY_S = 0.5
"""Between two tries to follow a shared log that does not answer."""

CATCH_UP_S = 0.5
"""For news before an answer: a gateway gives its retriever a second."""

Results = list[ItemRecord | None]

_NO_SCHEMA: Schema = {}
"""Of batches without changes."""

log = get_logger("writer")


@dataclass(frozen=True)
class _Batch:
    changes: Sequence[Change]
    schema: Schema
    is_in_bundle: Callable[[str], bool]
    done: Future[Results]


class JournalWriter:
    """Makes changes durable and visible, in the order in which they came."""

    def __init__(
        self,
        journal: Journal,
        show: Callable[[Sequence[ItemRecord]], None],
        tidy: Callable[[], None],
        replica: Replica | None = None,
    ) -> None:
        """
        Args:
            journal: written by this object's thread alone from now on.
            show: makes records visible to the next search.
            tidy: background work that changes cause; called on a thread of its own after they are acknowledged.
            replica: of the journal, up to date; None: no other retriever changes this catalogue.
        """
        self._journal = journal
        self._replica = replica
        self._show = show
        self._tidy = tidy
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._num_waiting = 0
        self._count = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._is_following = replica is not None
        self._writing = threading.Thread(target=self._write, name="journal")
        self._tidying = threading.Thread(target=self._keep_tidy, name="fold")
        self._following = [threading.Thread(target=self._follow, args=(replica,), name="follow")] if replica else []
        for thread in (self._writing, self._tidying, *self._following):
            thread.start()

    async def write(self, changes: Sequence[Change], schema: Schema, is_in_bundle: Callable[[str], bool]) -> Results:
        """What each change left, None where a masked item is unknown; durable and visible when it returns.

        Raises:
            Overloaded: too many changes wait.
            StorageFull, BadJournal: nothing of these changes was kept.
        """
        return await asyncio.shield(asyncio.wrap_future(self.submit(changes, schema, is_in_bundle)))

    def submit(self, changes: Sequence[Change], schema: Schema, is_in_bundle: Callable[[str], bool]) -> Future[Results]:
        """`write` for callers without an event loop."""
        with self._count:
            if self._num_waiting + len(changes) > MAX_WAITING:
                raise Overloaded(f"{self._num_waiting:,} catalogue changes wait for the disk; try again")
            self._num_waiting += len(changes)
            metrics.RETRIEVER_WAITING_CHANGES.set(self._num_waiting)
        done: Future[Results] = Future()
        self._queue.put(_Batch(changes, schema, is_in_bundle, done))
        return done

    async def catch_up(self) -> None:
        """Show what any retriever acknowledged before this call; where the shared log does not answer, do without."""
        if self._is_following:
            with suppress(ClozerecError, TimeoutError):
                async with asyncio.timeout(CATCH_UP_S):
                    await self.write((), _NO_SCHEMA, lambda _: False)

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        for thread in self._following:
            thread.join()
        self._queue.put(None)
        self._writing.join()
        self._changed.set()
        self._tidying.join()

    def _follow(self, replica: Replica) -> None:
        """Have the writing thread look at the shared log whenever there is news, and once in a while."""
        while not self._closing.is_set():
            try:
                replica.wait()
                self.submit((), _NO_SCHEMA, lambda _: False).result()
            except Exception as error:  # noqa: BLE001  # whatever it is, following goes on
                if self._is_following:
                    log.warning("shared_log_lost", error=repr(error.__cause__ or error))
                self._is_following = False
                self._closing.wait(RETRY_S)
            else:
                if not self._is_following:
                    log.info("shared_log_found")
                self._is_following = True
            metrics.RETRIEVER_LOG_LOST.set(not self._is_following)

    def _write(self) -> None:
        while (first := self._queue.get()) is not None:
            batches, last = self._waiting(first)
            for group in _of_one_schema(batches):
                self._commit(group)
            with self._count:
                self._num_waiting -= sum(len(batch.changes) for batch in batches)
                metrics.RETRIEVER_WAITING_CHANGES.set(self._num_waiting)
            self._changed.set()
            if last:
                return

    def _waiting(self, first: _Batch) -> tuple[list[_Batch], bool]:
        """The first batch and those that came while the last ones were written; whether the end came too."""
        batches, size = [first], len(first.changes)
        while size < MAX_TOGETHER:
            try:
                batch = self._queue.get_nowait()
            except Empty:
                break
            if batch is None:
                return batches, True
            batches.append(batch)
            size += len(batch.changes)
        return batches, False

    def _commit(self, batches: Sequence[_Batch]) -> None:
        """One transaction for batches of one schema."""
        changes = [change for batch in batches for change in batch.changes]
        try:
            with metrics.RETRIEVER_COMMIT_SECONDS.time() if changes else nullcontext():
                results = self._commit_changes(changes, batches[0].schema, batches[0].is_in_bundle)
        except Exception as error:  # noqa: BLE001  # each caller has it, and the thread goes on
            for batch in batches:
                batch.done.set_exception(error)
            return
        metrics.RETRIEVER_CHANGES.inc(len(changes))
        start = 0
        for batch in batches:
            batch.done.set_result(results[start : start + len(batch.changes)])
            start += len(batch.changes)

    def _commit_changes(
        self, changes: Sequence[Change], schema: Schema, is_in_bundle: Callable[[str], bool]
    ) -> Results:
        """What each change left, durable and visible."""
        if self._replica is None:
            results = self._journal.commit(changes, schema, is_in_bundle)
            self._show([record for record in results if record is not None])
            return results
        # First, for a log that has lost what is known here must have it back before a change rests on it.
        self._bring_up(self._replica)
        if not changes:
            return []
        results = self._replica.append(changes, schema, is_in_bundle)
        self._bring_up(self._replica)
        return results

    def _bring_up(self, replica: Replica) -> None:
        for records in replica.news():
            self._show(records)

    def _keep_tidy(self) -> None:
        while not self._closing.is_set():
            self._changed.wait()
            self._changed.clear()
            self._tidy()


def _of_one_schema(batches: Sequence[_Batch]) -> list[list[_Batch]]:
    """Neighbours that were typed by the same bundle's schema; two bundles are loaded during a roll-out only."""
    groups: list[list[_Batch]] = []
    for batch in batches:
        if groups and groups[-1][0].schema is batch.schema:
            groups[-1].append(batch)
        else:
            groups.append([batch])
    return groups
