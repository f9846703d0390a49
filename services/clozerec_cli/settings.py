"""Settings of all commands: options over `CLOZEREC_<NAME>` variables.

The services' own settings import no engine, so the union can be known on any install.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from clozerec_core.settings import Settings
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings


class CommandSettings(Settings):
    """Options of the commands that do not serve."""

    output: Path = Field(Path("bundles"), description="Directory that new bundles are written to.")
    preset: str | None = Field(None, description="Training keys to start from; the payload's own win.")
    cache_dir: Path = Field(
        Path("~/.cache/clozerec"), description="Exported text models and embedded texts, reused from run to run."
    )
    target: str = Field("127.0.0.1:50050", description="host:port of the gateway that `query` asks.")


class AllSettings(GatewaySettings, EncoderSettings, RetrieverSettings):
    """Settings of `serve all`: one process, and the gateway's ports."""


EVERY_KIND: tuple[type[Settings], ...] = (CommandSettings, AllSettings)
"""Whose variables may stand in one environment."""
