"""Puts the gateway together: stores, clients, pipeline, servicer; and takes it apart again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from clozerec_core.bundle import Bundle
from clozerec_core.telemetry import get_logger
from clozerec_gateway.circuit import Circuit
from clozerec_gateway.clients import EncoderClient, RetrieverClient
from clozerec_gateway.dependency import Dependency
from clozerec_gateway.events import EventStore, HistoryStoreGone
from clozerec_gateway.following import NotesFollower
from clozerec_gateway.here import EncoderHere, NearEncoderClient, NearRetrieverClient, RetrieverHere
from clozerec_gateway.histories import Histories
from clozerec_gateway.kept_catalogue import KeptCatalogue
from clozerec_gateway.live_items import DayZeroItems, LiveItems
from clozerec_gateway.loaded import LoadedBundles
from clozerec_gateway.notes import NoteStore
from clozerec_gateway.paging import PageTokens
from clozerec_gateway.pipeline import Pipeline, Services
from clozerec_gateway.reasoning import Explainer
from clozerec_gateway.recording import Recorder
from clozerec_gateway.renewal import ContentRenewal
from clozerec_gateway.sequences import SequenceReader
from clozerec_gateway.servicer import RecommenderServicer
from clozerec_gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from clozerec.v1.encoder_pb2_grpc import EncoderServiceAsyncStub
    from clozerec.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

log = get_logger("gateway")


class Store(EventStore, NoteStore, Protocol):
    """Everything that the gateway keeps, in one place."""


@asynccontextmanager
async def assembled(
    bundle: Bundle,
    settings: GatewaySettings,
    encoder_stub: EncoderServiceAsyncStub,
    retriever_stub: RetrieverServiceAsyncStub,
    here: tuple[EncoderHere, RetrieverHere] | tuple[None, None] = (None, None),
) -> AsyncIterator[tuple[RecommenderServicer, LoadedBundles]]:
    """A gateway that answers from a bundle through two stubs, and its bundles, for whoever follows the link.

    Args:
        bundle: to begin with.
        settings: of the process.
        encoder_stub, retriever_stub: the services that it asks.
        here: the same where they are of this process.

    Raises:
        UsageError: the store of live events cannot be used.
    """
    async with AsyncExitStack() as stack:
        store = await asyncio.to_thread(open_store, settings)
        stack.push_async_callback(store.close)
        tokens = PageTokens(_page_key(settings))
        parts = Parts(settings, encoder_stub, retriever_stub, store, tokens, here)
        pipeline = await asyncio.to_thread(parts.pipeline, bundle)
        await parts.read_notes(pipeline)
        bundles = LoadedBundles(pipeline, parts, asyncio.get_running_loop())
        stack.callback(bundles.close)
        for background in (ContentRenewal(bundles), NotesFollower(bundles)):
            stack.callback(asyncio.create_task(background.run()).cancel)
        yield RecommenderServicer(bundles, Recorder(store), tokens, settings.default_timeout_s), bundles


class Parts:
    """What pipelines of all bundles share."""

    def __init__(
        self,
        settings: GatewaySettings,
        encoder_stub: EncoderServiceAsyncStub,
        retriever_stub: RetrieverServiceAsyncStub,
        store: Store,
        tokens: PageTokens,
        here: tuple[EncoderHere, RetrieverHere] | tuple[None, None],
    ) -> None:
        self._settings = settings
        self._encoder_here: EncoderHere | None = here[0]
        self._retriever_here: RetrieverHere | None = here[1]
        self._encoder_stub = encoder_stub
        self._retriever_stub = retriever_stub
        self._store = store
        self._tokens = tokens
        self._encoder = Dependency("encoder", settings.encoder_timeout_s)
        self._retriever = Dependency("retriever", settings.retriever_timeout_s)
        self._store_circuit = Circuit()

    def pipeline(self, bundle: Bundle) -> Pipeline:
        """The pipeline of one bundle; blocking."""
        manifest = bundle.manifest
        encoder = self._encoder_client(bundle)
        retriever = self._retriever_client(bundle)
        kept = KeptCatalogue(bundle, self._store)
        day_zero = DayZeroItems(retriever)
        return Pipeline(
            bundle,
            Services(
                encoder=encoder,
                retriever=retriever,
                histories=Histories(bundle, self._store, self._store_circuit, self._settings.history_timeout_s),
                reader=SequenceReader(bundle, day_zero),
                items=LiveItems(manifest, encoder, retriever, day_zero, kept, self._store),
                kept=kept,
                tokens=self._tokens,
                explainer=Explainer(bundle, encoder, day_zero, kept),
            ),
        )

    def _encoder_client(self, bundle: Bundle) -> EncoderClient:
        arguments = (self._encoder_stub, bundle, self._encoder)
        if self._encoder_here is None:
            return EncoderClient(*arguments)
        return NearEncoderClient(self._encoder_here, bundle, *arguments)

    def _retriever_client(self, bundle: Bundle) -> RetrieverClient:
        arguments = (self._retriever_stub, bundle.bundle_id, bundle.manifest.schema_, self._retriever)
        if self._retriever_here is None:
            return RetrieverClient(*arguments)
        return NearRetrieverClient(self._retriever_here, bundle, *arguments)

    async def read_notes(self, pipeline: Pipeline) -> None:
        """Let a pipeline know what callers changed so far; where the store is gone, it is tried again when needed."""
        try:
            await pipeline.read_notes()
        except HistoryStoreGone:
            log.warning("notes_not_read")


def open_store(settings: GatewaySettings) -> Store:
    """The store that the settings ask for.

    Raises:
        UsageError: it cannot be used; the message says why.
    """
    if settings.redis_url is not None:
        from clozerec_gateway.redis_events import RedisEvents

        return RedisEvents(settings.redis_url.get_secret_value(), settings.max_live_events, settings.history_timeout_s)
    from clozerec_gateway.sqlite_events import SqliteEvents

    return SqliteEvents(settings.state_beside(settings.bundle), settings.max_live_events)


def _page_key(settings: GatewaySettings) -> bytes:
    return secrets.token_bytes(32) if settings.page_key is None else settings.page_key.get_secret_value().encode()
