"""A journal that is a copy of the log that retrievers share, kept up to date by one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from clozerec_core.catalogue import Schema
from clozerec_core.telemetry import get_logger
from clozerec_retriever.journal import Journal
from clozerec_retriever.records import Change, ItemRecord
from clozerec_retriever.shared_log import TOGETHER, SharedLog

log = get_logger("replica")


class Replica:
    """Follows the log. For one thread at a time."""

    def __init__(self, journal: Journal, shared: SharedLog) -> None:
        self._journal = journal
        self._shared = shared

    def append(
        self, changes: Sequence[Change], schema: Schema, is_in_bundle: Callable[[str], bool]
    ) -> list[ItemRecord | None]:
        """See `SharedLog.append`; the journal has them with the next `news`."""
        return self._shared.append(changes, schema, is_in_bundle)

    def wait(self) -> None:
        """Return when there is news, or after a while; for any thread.

        Raises:
            SharedLogGone: the log does not answer.
        """
        self._shared.wait(self._journal.followed[1] if self._journal.followed else 0)

    def close(self) -> None:
        """Let go of the log."""
        self._shared.close()

    def news(self) -> Iterator[Sequence[ItemRecord]]:
        """What the log has and the journal had not, in batches that are in the journal when they are yielded.

        Raises:
            SharedLogGone: the log does not answer.
            StorageFull, BadJournal: the disk is full, or fails.
        """
        while True:
            followed = self._journal.followed
            found = None if followed is None else self._shared.since(*followed)
            if followed is None or found is None:
                yield from self._begin_anew()
                continue
            position, records = found
            if position == followed[1]:
                return
            self._journal.keep(records, followed[0], position)
            yield records

    def _begin_anew(self) -> Iterator[Sequence[ItemRecord]]:
        """Of a log that is new to the journal, or has forgotten the way from its position: the newer of both stands.

        So a journal of one retriever becomes the beginning of a log, and a Redis that lost what it had gets it back.
        """
        log_id, position = self._shared.end()
        self._shared.add_newer(self._journal.records())
        self._journal.keep(self._shared.everything(), log_id, position, anew=True)
        log.info("shared_log_read", log_id=log_id, position=position)
        records = self._journal.records()
        while some := list(islice(records, TOGETHER)):
            yield some
