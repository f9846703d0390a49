"""Files that change while a process runs: certificates, tokens, shares. Read again when they change, without a restart.

A mounted Kubernetes secret changes by a swapped symlink, an editor by a rename; both show in the file's status, which
is looked at once a second at most. What cannot be read or parsed is said in the log, and the last good value stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from clozerec_core.errors import UsageError
from clozerec_core.telemetry import FILE_REFUSED, FILE_RELOADED, get_logger

CHECK_EVERY_S = 1.0

Value = TypeVar("Value")
_State = tuple[tuple[int, int, int], ...]

log = get_logger("files")


class LiveFiles(Generic[Value]):
    """A value made of the contents of one or more files, current within a second."""

    def __init__(
        self, paths: Sequence[Path], parse: Callable[..., Value], check_every_s: float = CHECK_EVERY_S
    ) -> None:
        """Read them for the first time.

        Args:
            paths: read as bytes, in this order.
            parse: takes one `bytes` argument a path; raises ValueError (whose text names what is wrong) or UsageError.
            check_every_s: seconds between two looks.

        Raises:
            UsageError: a file is not there or not good.
        """
        self._paths = tuple(paths)
        self._parse = parse
        self._check_every_s = check_every_s
        self._next_check = time.monotonic() + check_every_s
        try:
            self._state = self._look()
            self._value = self._read()
        except (OSError, ValueError) as error:
            raise UsageError(f"{self._names()}: {_reason(error)}") from None

    def current(self) -> Value:
        """The value, read again if a file changed."""
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + self._check_every_s
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        try:
            state = self._look()
            if state == self._state:
                return
            self._value = self._read()
        except (OSError, ValueError, UsageError) as error:
            log.error(FILE_REFUSED, files=self._names(), reason=_reason(error))
            return
        self._state = state
        log.info(FILE_RELOADED, files=self._names())

    def _look(self) -> _State:
        return tuple((status.st_mtime_ns, status.st_ino, status.st_size) for status in (p.stat() for p in self._paths))

    def _read(self) -> Value:
        return self._parse(*(path.read_bytes() for path in self._paths))

    def _names(self) -> str:
        return ", ".join(str(path) for path in self._paths)


def _reason(error: Exception) -> str:
    """Never a file's content: it may be a secret."""
    return error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)
