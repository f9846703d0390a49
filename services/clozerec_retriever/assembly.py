"""Puts the retriever together: bundle, journal, shared log, servicer."""

from __future__ import annotations

from clozerec_core.bundle import Bundle
from clozerec_core.errors import SharedLogGone
from clozerec_core.telemetry import get_logger
from clozerec_retriever.journal import Journal
from clozerec_retriever.replica import Replica
from clozerec_retriever.retriever import Retriever
from clozerec_retriever.servicer import RetrieverServicer
from clozerec_retriever.settings import RetrieverSettings
from clozerec_retriever.shared_log import SharedLog
from clozerec_retriever.shelf import Shelf

log = get_logger("retriever")


def build(bundle: Bundle, settings: RetrieverSettings) -> RetrieverServicer:
    """A servicer that answers from a verified bundle and the journal in the state directory.

    Raises:
        BadBundle: a file is not what the manifest says.
        BadJournal, UsageError: the journal cannot be used.
        SharedLogGone: what others changed cannot be read, and the journal does not know of it from before.
    """
    retriever = Retriever.open(bundle)
    retriever.warm_up()
    state_dir = settings.state_beside(settings.bundle)
    journal = Journal(state_dir)
    try:
        replica = open_replica(journal, settings)
        retriever.live.replay(journal.records())
    except BaseException:
        journal.close()
        raise
    return RetrieverServicer(Shelf(retriever), journal, replica, state_dir / "snapshots", settings.search_threads)


def open_replica(journal: Journal, settings: RetrieverSettings) -> Replica | None:
    """The journal brought up to the shared log, where the settings name one.

    Raises:
        UsageError: the setting is wrong.
        SharedLogGone: it does not answer, and the journal does not know of it from before: an item that was deleted
            would be back.
    """
    if settings.redis_url is None:
        return None
    replica = Replica(journal, SharedLog(settings.redis_url.get_secret_value()))
    try:
        for _ in replica.news():
            pass
    except SharedLogGone as error:
        if journal.followed is None:
            raise
        log.warning("shared_log_lost", error=repr(error.__cause__), position=journal.followed[1])
    return replica
