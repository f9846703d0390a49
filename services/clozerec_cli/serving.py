"""Put services on ports: each in a process of its own, or all three in one.

Each function is a context that yields once its service is ready, and drains it on the way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from clozerec_cli.settings import EVERY_KIND, AllSettings
from clozerec_core import metrics
from clozerec_core.access import Gate
from clozerec_core.admission import Admission
from clozerec_core.bundle import Bundle
from clozerec_core.bundle_watch import BundleWatch, Together, WatchSettings
from clozerec_core.bundle_watch import Part as FollowingPart
from clozerec_core.garbage import settle
from clozerec_core.metrics_endpoint import metrics_endpoint
from clozerec_core.remote_stub import InnerAccess, RemoteStub
from clozerec_core.rpc import GrpcServer, ServerSettings, Service, until_signalled
from clozerec_core.rpc_client import LocalStub
from clozerec_core.telemetry import BUNDLE_OPENED, STOPPED, configure_logging, get_logger
from clozerec_core.tracing import tracing
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings

if TYPE_CHECKING:
    from clozerec.v1.encoder_pb2_grpc import EncoderServiceAsyncStub
    from clozerec.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub
    from clozerec_encoder.servicer import EncoderServicer
    from clozerec_retriever.servicer import RetrieverServicer

log = get_logger("serve")


class Part(Enum):
    """What a process serves."""

    ALL = "all"
    ENCODER = "encoder"
    RETRIEVER = "retriever"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class GatewayPorts:
    """Where the gateway listens."""

    grpc: int
    http: int


def run(part: Part, options: dict[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        UsageError: a setting is wrong, a port taken. BadBundle: the bundle cannot be opened.
    """
    import uvloop

    settings = _load_settings(part, options)
    configure_logging(settings.log_level, settings.log_format)
    uvloop.run(_serve(part, settings))


async def _serve(part: Part, settings: ServerSettings) -> None:
    bundle = await asyncio.to_thread(Bundle.open, settings.bundle)  # type: ignore[attr-defined]  # every part has it
    log.info(BUNDLE_OPENED, bundle_id=bundle.bundle_id, path=str(bundle.path))
    metrics.BUNDLE_INFO.labels(part.value, bundle.bundle_id).set(1)
    with ExitStack() as stack:
        if settings.metrics:
            stack.enter_context(metrics_endpoint(settings.host, settings.metrics_port))
        stack.enter_context(tracing(settings.otlp_endpoint, f"clozerec-{part.value}", settings.trace_sample_ratio))
        async with _context(part, bundle, settings):
            settle()
            await until_signalled()
    log.info(STOPPED, part=part.value)


def _context(part: Part, bundle: Bundle, settings: Any) -> AbstractAsyncContextManager[Any]:
    match part:
        case Part.ENCODER:
            return encoder_server(bundle, settings)
        case Part.RETRIEVER:
            return retriever_server(bundle, settings)
        case Part.GATEWAY:
            return gateway_server(bundle, settings)
        case Part.ALL:
            return all_in_one(bundle, settings)


def encoder_server(bundle: Bundle, settings: EncoderSettings) -> AbstractAsyncContextManager[int]:
    """The encoder, following the bundle's link; yields its port."""
    return _inner_server(Part.ENCODER, lambda: _encoder(bundle, settings), settings, bundle)


def retriever_server(bundle: Bundle, settings: RetrieverSettings) -> AbstractAsyncContextManager[int]:
    """The retriever, following the bundle's link; yields its port."""
    return _inner_server(Part.RETRIEVER, lambda: _retriever(bundle, settings), settings, bundle)


@asynccontextmanager
async def _inner_server(
    part: Part, load: Callable[[], EncoderServicer | RetrieverServicer], settings: Any, bundle: Bundle
) -> AsyncIterator[int]:
    servicer = await asyncio.to_thread(load)
    try:
        gate = Gate(
            inner_token_path=settings.inner_token_path,
            rate_per_s=settings.rate_limit_per_s,
            client_names=settings.tls_client_names,
        )
        listening = _listening([servicer.service()], settings, gate)
        async with listening as port, _following(part, servicer, bundle, settings):
            yield port
    finally:
        servicer.close()


@asynccontextmanager
async def _following(
    part: Part, follower: FollowingPart, bundle: Bundle, settings: WatchSettings
) -> AsyncIterator[None]:
    """Keep a part on the bundle that the link names."""
    watching = asyncio.create_task(BundleWatch(follower, bundle, settings, part.value).run())
    try:
        yield
    finally:
        watching.cancel()


@asynccontextmanager
async def gateway_server(bundle: Bundle, settings: GatewaySettings) -> AsyncIterator[GatewayPorts]:
    """The gateway on its ports, calling encoder and retriever at their targets."""
    from clozerec.v1.encoder_pb2_grpc import EncoderServiceStub
    from clozerec.v1.retriever_pb2_grpc import RetrieverServiceStub

    access = InnerAccess(
        settings.inner_ca_path, settings.tls_cert_path, settings.tls_key_path, settings.inner_token_path
    )
    async with (
        RemoteStub(EncoderServiceStub, settings.encoder_target, access) as encoder,
        RemoteStub(RetrieverServiceStub, settings.retriever_target, access) as retriever,
    ):
        encoder_stub = cast("EncoderServiceAsyncStub", encoder)
        retriever_stub = cast("RetrieverServiceAsyncStub", retriever)
        async with _gateway(bundle, settings, encoder_stub, retriever_stub) as ports:
            yield ports


@asynccontextmanager
async def all_in_one(bundle: Bundle, settings: AllSettings) -> AsyncIterator[GatewayPorts]:
    """The three services in this process; only the gateway listens.

    Args:
        bundle: opened once and shared.
        settings: those of all three.
    """
    encoder = await asyncio.to_thread(_encoder, bundle, settings)
    retriever = await asyncio.to_thread(_retriever, bundle, settings)
    encoder_stub = cast("EncoderServiceAsyncStub", LocalStub(encoder))
    retriever_stub = cast("RetrieverServiceAsyncStub", LocalStub(retriever))
    try:
        # One after the other: when the gateway has a new bundle, the two that it asks have it.
        async with _gateway(bundle, settings, encoder_stub, retriever_stub, (encoder, retriever)) as ports:
            yield ports
    finally:
        encoder.close()
        retriever.close()


@asynccontextmanager
async def _gateway(
    bundle: Bundle,
    settings: GatewaySettings,
    encoder_stub: EncoderServiceAsyncStub,
    retriever_stub: RetrieverServiceAsyncStub,
    inner: tuple[EncoderServicer, RetrieverServicer] | None = None,
) -> AsyncIterator[GatewayPorts]:
    """The gateway on its ports, following the bundle's link after those parts of its process that it calls."""
    from clozerec_gateway.assembly import assembled
    from clozerec_gateway.http import HttpFront
    from clozerec_gateway.quality import QualityWatch
    from clozerec_gateway.split import open_split
    from clozerec_gateway.watched import WatchedServicer

    gate = Gate(
        tokens_path=settings.tokens_path,
        rate_per_s=settings.rate_limit_per_s,
        client_names=settings.tls_client_names,
    )
    here = inner or (None, None)
    async with assembled(bundle, settings, encoder_stub, retriever_stub, here) as (answering, bundles):
        servicer = WatchedServicer(answering, QualityWatch(), open_split(settings))
        admission = Admission(settings.max_in_flight)
        front = HttpFront(servicer, settings, gate, admission)
        server = GrpcServer([servicer.service()], settings, gate, admission)
        part = Part.ALL if inner else Part.GATEWAY
        try:
            ports = GatewayPorts(http=await front.start(), grpc=await server.start())
            await server.ready(ports.grpc)
            async with _following(part, Together(*(inner or ()), bundles), bundle, settings):
                front.ready(ports.http)
                yield ports
        finally:
            # Together: one after the other they would need the delay and the grace twice, and be killed amid calls.
            await asyncio.gather(server.stop(), front.stop())
            await servicer.close()


@asynccontextmanager
async def _listening(services: Sequence[Service], settings: ServerSettings, gate: Gate) -> AsyncIterator[int]:
    server = GrpcServer(services, settings, gate)
    port = await server.start()
    await server.ready(port)
    try:
        yield port
    finally:
        await server.stop()


def _encoder(bundle: Bundle, settings: EncoderSettings) -> EncoderServicer:
    from clozerec_encoder.bundles import LoadedBundles
    from clozerec_encoder.servicer import EncoderServicer

    return EncoderServicer(LoadedBundles(bundle, settings))


def _retriever(bundle: Bundle, settings: RetrieverSettings) -> RetrieverServicer:
    from clozerec_retriever.assembly import build

    return build(bundle, settings)


def _load_settings(part: Part, options: dict[str, Any]) -> ServerSettings:
    kinds: dict[Part, type[ServerSettings]] = {
        Part.ALL: AllSettings,
        Part.ENCODER: EncoderSettings,
        Part.RETRIEVER: RetrieverSettings,
        Part.GATEWAY: GatewaySettings,
    }
    return kinds[part].load(options, EVERY_KIND)
