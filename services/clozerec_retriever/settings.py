"""Settings of the retriever process."""

from __future__ import annotations

from pydantic import Field

from clozerec_core.bundle_watch import WatchSettings
from clozerec_core.rpc import ServerSettings
from clozerec_core.settings import StateSettings


class RetrieverSettings(ServerSettings, StateSettings, WatchSettings):
    """Read once in `main()`."""

    grpc_port: int = Field(50052, ge=0, le=65535, description="0 takes any free port.")
    metrics_port: int = Field(9092, ge=0, le=65535, description="GET /metrics; 0 takes any free port.")
    search_threads: int = Field(
        2, ge=1, description="Searches at once, each on one core; more than the cores only lengthens every one of them."
    )
