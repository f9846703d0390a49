"""The error tree: what can go wrong, in the domain's words, and the gRPC status that each kind leaves with.

    ClozerecError                 INTERNAL
    ├── BadRequest                INVALID_ARGUMENT
    ├── UnknownItem               NOT_FOUND
    ├── BundleMismatch            FAILED_PRECONDITION
    ├── NoTextEngine              FAILED_PRECONDITION
    ├── StalePage                 FAILED_PRECONDITION
    ├── NotReady                  UNAVAILABLE           with RetryInfo
    │   └── SharedLogGone         UNAVAILABLE           a write needs it; searches do not
    ├── Overloaded                RESOURCE_EXHAUSTED    with RetryInfo
    │   └── RateLimited           RESOURCE_EXHAUSTED
    ├── StorageFull               RESOURCE_EXHAUSTED
    ├── Unauthenticated           UNAUTHENTICATED
    ├── PermissionDenied          PERMISSION_DENIED
    ├── DeadlineExceeded          DEADLINE_EXCEEDED
    ├── BadBundle                 FAILED_PRECONDITION   a file of the bundle is missing, damaged or too new
    ├── BadJournal                UNAVAILABLE           the file of live changes is damaged, or its disk fails
    ├── UsageError                INVALID_ARGUMENT      the command line: payload, data, paths (exit code 2)
    └── RelayedError, GatewayRefused                    another process's error, with the status that it had

Raised where the fault is known; `rpc_errors.py` maps the tree to google.rpc.Status in one place. A message tells the
caller what to change and never holds inner text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc


@dataclass(frozen=True)
class Violation:
    """One field of a request that is wrong."""

    field: str
    """Path of the field, such as `filters.meta.brand` or `session_items[2]`."""
    description: str
    """What is wrong and what would be right."""


class ClozerecError(Exception):
    """Base of everything this project raises on purpose."""

    status: grpc.StatusCode = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"
    """`google.rpc.ErrorInfo.reason`: upper snake case, stable."""
    retry_s: float | None = None
    """When the same call may succeed, in seconds (`google.rpc.RetryInfo`); None: there is no telling."""

    @property
    def message(self) -> str:
        return str(self)


class BadRequest(ClozerecError):
    """The request is wrong, whatever the state of the service."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "BAD_REQUEST"

    def __init__(self, violations: Sequence[Violation]) -> None:
        assert violations, "a bad request names at least one field"
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{each.field}: {each.description}" for each in self.violations))

    @classmethod
    def of(cls, field: str, description: str) -> BadRequest:
        """A bad request with one violation."""
        return cls([Violation(field, description)])


class UnknownItem(ClozerecError):
    """The query's item is in no catalogue, and no text says what it is."""

    status = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_ITEM"

    def __init__(self, item_id: str) -> None:
        super().__init__(f'item "{item_id}" is unknown; send item_text to be answered by its text')


class BundleMismatch(ClozerecError):
    """The request means another bundle than those that are loaded."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "BUNDLE_NOT_LOADED"

    def __init__(self, wanted: str, loaded: str) -> None:
        super().__init__(f'bundle "{wanted}" is not loaded; the current one is "{loaded}"')


class NoTextEngine(ClozerecError):
    """Text was sent for a bundle that was trained without metadata columns."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NO_TEXT_ENGINE"

    def __init__(self) -> None:
        super().__init__("this bundle has no text engine; train with metadata_columns to have one")


class StalePage(ClozerecError):
    """A page token that was good once."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "STALE_PAGE"


class NotReady(ClozerecError):
    """Still loading, or what the answer needs is gone."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"
    retry_s: float | None = 1.0


class SharedLogGone(NotReady):
    """The log of catalogue changes that retrievers share does not answer; each goes on with what it knows."""

    reason = "SHARED_LOG_GONE"

    def __init__(self) -> None:
        super().__init__("the shared log of catalogue changes is not reachable; try again")


class Overloaded(ClozerecError):
    """The queue is full: refused at once rather than late."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, message: str, retry_s: float = 0.5) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class RateLimited(Overloaded):
    """The caller has used up the rate that its identity is given."""

    reason = "RATE_LIMITED"

    def __init__(self, rate_per_s: float, retry_s: float) -> None:
        super().__init__(f"more than {rate_per_s:g} calls a second; try again in {retry_s:.3f} s", retry_s)


class Unauthenticated(ClozerecError):
    """The caller did not show who it is."""

    status = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(ClozerecError):
    """The caller is known, and may not do this."""

    status = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class StorageFull(ClozerecError):
    """The disk that a durable write needs is full; nothing of the write was kept."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "STORAGE_FULL"


class DeadlineExceeded(ClozerecError):
    """The caller's time is up."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class BadBundle(ClozerecError):
    """A bundle cannot be opened; the message names the file."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "BAD_BUNDLE"


class BadJournal(ClozerecError):
    """The journal of catalogue changes cannot be read or written; the message names the file."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "BAD_JOURNAL"


class UsageError(ClozerecError):
    """A payload, data file, path or option that the person at the command line has to change."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "BAD_USAGE"
