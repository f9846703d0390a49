"""Server bootstrap that the three services share: settings, TLS, health, reflection, drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from pydantic import Field, model_validator

from clozerec_core.access import Gate
from clozerec_core.admission import Admission
from clozerec_core.errors import UsageError
from clozerec_core.rpc_methods import Methods
from clozerec_core.settings import Settings
from clozerec_core.telemetry import DRAINING, OPEN_TO_EVERYBODY, SERVING, LogFormat, LogLevel, get_logger
from clozerec_core.tls import TlsPaths, server_credentials

LIVENESS = "liveness"
"""Health name that is SERVING as long as the process can answer at all; readiness has each service's own name."""

MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_RESPONSE_BYTES = 128 * 1024 * 1024
"""A thousand items with all of their metadata may be large."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")

log = get_logger("rpc")


class ServerSettings(Settings):
    """What every serving process reads."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    grpc_port: int = Field(0, ge=0, le=65535, description="0 takes any free port.")
    drain_delay_s: float = Field(
        0.0, ge=0, description="Seconds between NOT_SERVING and refusing calls, for balancers to notice."
    )
    grace_s: float = Field(5.0, ge=0, description="Seconds that calls under way may take after that.")
    default_timeout_s: float = Field(
        10.0, gt=0, description="Seconds for an answer when the caller sets no deadline; a call without one may hang."
    )
    max_concurrent_streams: int = Field(
        64,
        ge=1,
        description="Calls under way on one connection; HTTP/2 keeps further ones at the caller, where they cost this "
        "server nothing, while refusing a short call costs as much as answering it.",
    )
    metrics: bool = Field(True, description="Count calls, and serve Prometheus metrics on metrics_port.")
    metrics_port: int = Field(0, ge=0, le=65535, description="GET /metrics; 0 takes any free port.")
    health_port: int | None = Field(
        None, ge=0, le=65535, description="gRPC health alone, without TLS, for probes; unset: only on grpc_port."
    )
    tls_cert_path: Path | None = Field(None, description="PEM chain of this server; followed when the file changes.")
    tls_key_path: Path | None = Field(None, description="PEM key of the certificate.")
    tls_client_ca_path: Path | None = Field(
        None, description="PEM CA that must have signed every caller's certificate (mutual TLS)."
    )
    tls_client_names: tuple[str, ...] = Field(
        (), description="The caller's certificate must hold one of these names; empty: any that the CA signed."
    )
    inner_token_path: Path | None = Field(
        None,
        description="Tokens between our services, one a line: the gateway sends the first, the others accept all.",
    )
    rate_limit_per_s: float | None = Field(
        None, gt=0, description="Calls a second of one identity, unless its token's entry says otherwise."
    )
    otlp_endpoint: str | None = Field(None, description="OTLP over gRPC for traces, such as http://collector:4317.")
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of requests that are traced where the caller did not decide."
    )
    log_level: LogLevel = Field("info", description="Least severe line that is written.")
    log_format: LogFormat = Field("json", description="json for machines, console for people.")

    @model_validator(mode="after")
    def _certificate_and_key_come_together(self) -> Self:
        if (self.tls_cert_path is None) != (self.tls_key_path is None):
            raise ValueError("tls_cert_path and tls_key_path need each other")
        if self.tls_cert_path is None and (self.tls_client_ca_path is not None or self.tls_client_names):
            raise ValueError("tls_client_ca_path and tls_client_names need tls_cert_path")
        if self.tls_client_names and self.tls_client_ca_path is None:
            raise ValueError("tls_client_names needs tls_client_ca_path")
        return self

    def tls(self) -> TlsPaths | None:
        """This server's certificate; None: it speaks in the clear."""
        if self.tls_cert_path is None or self.tls_key_path is None:
            return None
        return TlsPaths(self.tls_cert_path, self.tls_key_path, self.tls_client_ca_path)


@dataclass(frozen=True)
class Service:
    """One service to put on a server."""

    name: str
    """Full name, such as `clozerec.v1.EncoderService`; also its health name."""
    register: Callable[[grpc.aio.Server], None]


class GrpcServer:
    """A grpc.aio server with error mapping, health for each service name, and reflection."""

    def __init__(
        self,
        services: Sequence[Service],
        settings: ServerSettings,
        gate: Gate | None = None,
        admission: Admission | None = None,
    ) -> None:
        """
        Args:
            services: what it hosts.
            settings: of the process.
            gate: who may call; None lets everybody in.
            admission: how many calls at once; None leaves that to the queues behind.
        """
        self._settings = settings
        gate = gate or Gate()
        self._names = [service.name for service in services]
        self._is_ready = False
        self._health = health.aio.HealthServicer()
        # Without so_reuseport=0 two servers share a port silently, and each sees half of the calls.
        options = (
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
            # Else a call counts until its memory is freed, and callers that keep to the limit are refused.
            ("grpc.http.overload_protection", 0),
            # Callers of ours ask every second whether we live (rpc_client.py); by default that is held against them.
            ("grpc.http2.min_ping_interval_without_data_ms", 500),
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        )
        methods = Methods(settings.default_timeout_s, gate, admission, settings.metrics)
        self._server = grpc.aio.server(handlers=(methods,), options=options)
        hosts = cast(grpc.aio.Server, methods)
        for service in services:
            service.register(hosts)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, hosts)
        self._server.add_registered_method_handlers(health.SERVICE_NAME, methods.of(health.SERVICE_NAME))
        self._health_server = grpc.aio.server(options=options[:1]) if settings.health_port is not None else None
        if self._health_server is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflected = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, hosts)  # type: ignore[no-untyped-call]
        if gate.is_open and settings.host not in _LOOPBACK:
            log.warning(OPEN_TO_EVERYBODY, services=self._names, host=settings.host)

    async def start(self) -> int:
        """Listen, not ready yet; returns the port.

        Raises:
            UsageError: a port is taken or not allowed, a certificate missing or wrong.
        """
        await self._set_ready(False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        tls = self._settings.tls()
        credentials = server_credentials(tls) if tls is not None else None
        port = self._listen(self._server, self._settings.grpc_port, "--grpc-port", credentials)
        if self._health_server is not None and self._settings.health_port is not None:
            self._listen(self._health_server, self._settings.health_port, "CLOZEREC_HEALTH_PORT", None)
            await self._health_server.start()
        await self._server.start()
        return port

    def _listen(
        self, server: grpc.aio.Server, port: int, option: str, credentials: grpc.ServerCredentials | None
    ) -> int:
        address = f"{self._settings.host}:{port}"
        try:
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UsageError(f"cannot listen on {address}: is the port in use? choose another {option}") from error

    async def ready(self, port: int) -> None:
        """Tell balancers that calls are welcome."""
        await self._set_ready(True)
        log.info(SERVING, services=self._names, host=self._settings.host, grpc_port=port)

    async def stop(self) -> None:
        """Say NOT_SERVING, wait for balancers, then let calls under way finish. What was never ready stops at once."""
        if self._is_ready:
            log.info(DRAINING, services=self._names)
            await self._set_ready(False)
            await asyncio.sleep(self._settings.drain_delay_s)
        await self._server.stop(self._settings.grace_s)
        if self._health_server is not None:
            await self._health_server.stop(None)

    async def _set_ready(self, ready: bool) -> None:
        self._is_ready = ready
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)


async def until_signalled() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
