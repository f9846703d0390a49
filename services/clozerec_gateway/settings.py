"""Settings of the gateway process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from clozerec_core.rpc import ServerSettings


class GatewaySettings(ServerSettings):
    """Read once in `main()`."""

    bundle: Path = Field(description="A bundle directory, or a symlink to one.")
    grpc_port: int = Field(50050, ge=0, le=65535, description="0 takes any free port.")
    http_port: int = Field(8080, ge=0, le=65535, description="The JSON front; 0 takes any free port.")
    metrics_port: int = Field(9090, ge=0, le=65535, description="GET /metrics; 0 takes any free port.")
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
