"""Settings of the gateway process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from clozerec_core.bundle_watch import WatchSettings
from clozerec_core.rpc import ServerSettings
from clozerec_core.settings import StateSettings


class GatewaySettings(ServerSettings, StateSettings, WatchSettings):
    """Read once in `main()`."""

    grpc_port: int = Field(50050, ge=0, le=65535, description="0 takes any free port.")
    http_port: int = Field(8080, ge=0, le=65535, description="The JSON front; 0 takes any free port.")
    metrics_port: int = Field(9090, ge=0, le=65535, description="GET /metrics; 0 takes any free port.")
    max_in_flight: int = Field(
        100,
        ge=1,
        description="Calls that are worked on at once, over gRPC and JSON together; more are refused at once, so that "
        "these are answered in time.",
    )
    max_concurrent_streams: int = Field(
        512,
        ge=1,
        description="Calls under way on one connection. More than max_in_flight: what waits in a caller's library has "
        "used up its time when its turn comes, while a refused caller knows at once.",
    )
    tokens_path: Path | None = Field(
        None, description="JSON of callers, the SHA-256 of their tokens, and roles; followed when the file changes."
    )
    split_path: Path | None = Field(
        None, description="JSON of the gateway that answers a share of the users (A/B); followed when it changes."
    )
    inner_ca_path: Path | None = Field(
        None, description="PEM CA of encoder and retriever: calls to them use TLS, and show tls_cert_path."
    )
    encoder_target: str = Field("127.0.0.1:50051", description="host:port of the encoder; unused by `serve all`.")
    retriever_target: str = Field("127.0.0.1:50052", description="host:port of the retriever; unused by `serve all`.")
    max_live_events: int = Field(
        10_000, ge=1, le=100_000, description="Newest live events kept of a person; older ones make room."
    )
    history_timeout_s: float = Field(
        0.25, gt=0, description="Seconds for a person's history; then the answer does without it, and says so."
    )
    encoder_timeout_s: float = Field(
        1.0,
        gt=0,
        description="Seconds that the encoder has for a sequence; then the answer does without it, and so do all where "
        "it answers nobody for a quarter of that.",
    )
    retriever_timeout_s: float = Field(
        1.0,
        gt=0,
        description="Seconds that the retriever has for a search; then the answer does without it, and so do all where "
        "it answers nobody for a quarter of that.",
    )
    page_key: SecretStr | None = Field(
        None,
        description="Signs page tokens; the same for all gateways behind one address. Unset: a random one, so that a "
        "token is good with the gateway that gave it out, until it stops.",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description='Origins of web pages that may call the JSON front, as JSON: ["https://shop.example"], or ["*"]. '
        "Empty: no page may.",
    )
