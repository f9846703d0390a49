"""Base of every process's settings: environment variables `CLOZEREC_<NAME>`, command-line options on top of them.

Read once in `main()` and passed down. A variable with our prefix that no setting reads stops the start: a misspelt
limit must not be silently ignored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from clozerec_core.errors import UsageError
from clozerec_core.wording import suggest

ENV_PREFIX = "CLOZEREC_"


class Settings(BaseSettings):
    """Subclass it once a process; each field's description gives its unit and its reason."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def load(cls, options: Mapping[str, Any], shared_with: tuple[type[Settings], ...] = ()) -> Self:
        """Settings from the command line's options (None: not given) over the environment.

        Args:
            options: field name to value.
            shared_with: settings of other processes whose variables may stand in the same environment.

        Raises:
            UsageError: a value is wrong or a variable unknown; the message names it.
        """
        kinds: tuple[type[Settings], ...] = (cls, *shared_with)
        known = sorted({ENV_PREFIX + name.upper() for kind in kinds for name in kind.model_fields})
        for name in sorted(os.environ):
            if name.startswith(ENV_PREFIX) and name not in known:
                raise UsageError(f"environment variable {name} is unknown{suggest(name, known)}")
        try:
            return cls(**{name: value for name, value in options.items() if value is not None})
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()
            )
            raise UsageError(f"wrong settings: {faults}") from None


class StateSettings(Settings):
    """Base of every process that keeps changes made while it serves."""

    state_dir: Path | None = Field(
        None,
        description="Directory of what must outlive a restart and a new bundle; on a disk of its own in production. "
        "Unset: `state` beside the bundle.",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss:// or unix:// of the store that processes of one kind share: gateways their live "
        "events, retrievers their catalogue changes. Unset: one process of a kind, with SQLite in the state directory.",
    )

    def state_beside(self, bundle: Path) -> Path:
        """Where this process keeps its files; `bundle` is the directory or symlink that is served."""
        return self.state_dir if self.state_dir is not None else bundle.absolute().parent / "state"
