"""Settings of the encoder process."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clozerec_core.bundle_watch import WatchSettings
from clozerec_core.rpc import ServerSettings


class EncoderSettings(ServerSettings, WatchSettings):
    """Read once in `main()`."""

    grpc_port: int = Field(50051, ge=0, le=65535, description="0 takes any free port.")
    metrics_port: int = Field(9091, ge=0, le=65535, description="GET /metrics; 0 takes any free port.")
    encoder_threads: int = Field(1, ge=1, description="Threads of one network run; the cores left serve other callers.")
    encoder_run_tokens: int = Field(
        256, ge=1, description="Positions in one network run; the activations of larger ones leave a core's cache."
    )
    encoder_device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where the networks run; cuda needs onnxruntime-gpu and a GPU."
    )
    encoder_workers: int = Field(1, ge=1, description="Batches that run at once, each on its own threads.")
    encoder_batch_tokens: int = Field(
        1024,
        ge=1,
        description="Positions that a worker takes at a time, from all callers; a newcomer waits for them.",
    )
    encoder_max_waiting_tokens: int = Field(
        100_000, ge=1, description="Positions that may wait, a quarter of a second's work; beyond it calls are refused."
    )
    encoder_lone_tokens: int = Field(
        100,
        ge=0,
        description="A lone caller's call up to this many positions is run without handing it to a worker. 0: never.",
    )
    text_batch_tokens: int = Field(
        256, ge=1, description="Word pieces in one run of the text model; bounds its memory, about 0.1 MB a piece."
    )
    text_max_waiting_tokens: int = Field(
        20_000, ge=1, description="Word pieces that may wait, ten seconds' work; beyond it calls are refused."
    )
    text_cache_texts: int = Field(
        10_000, ge=0, description="Texts whose vectors are kept, newest first, at about 2 kB each."
    )
