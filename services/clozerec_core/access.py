"""Who calls, and what they may do: bearer tokens with roles, the inner identity, a rate for each identity.

Tokens are kept as SHA-256 digests, so that the file that names them gives none away; they are random and long, which a
plain digest needs. Nothing here is logged but an identity's name.

A server without a tokens file and without an inner token lets everybody in: that suits one machine's loopback, and
`serving.py` says so in the log where the address is another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from clozerec_core.errors import PermissionDenied, RateLimited, Unauthenticated, UsageError
from clozerec_core.live_file import LiveFiles
from clozerec_core.telemetry import AUDIT, get_audit_logger

AUTHORIZATION_KEY = "authorization"
_SCHEME = "bearer "
MIN_TOKEN_LEN = 16


class Role(IntEnum):
    """What an identity may do; each may do what stands above it too."""

    READ = 1
    """Ask: recommendations, items, service info."""
    WRITE = 2
    """Change: events and items."""
    ADMIN = 3
    """Erase a person, and whatever else cannot be taken back."""


ROLE_OF_METHOD: Mapping[str, Role] = {
    "Recommend": Role.READ,
    "RecommendStream": Role.READ,
    "GetItems": Role.READ,
    "GetServiceInfo": Role.READ,
    "RecordInteractions": Role.WRITE,
    "UpsertItems": Role.WRITE,
    "DeleteItems": Role.WRITE,
    "DeleteUser": Role.ADMIN,
}
"""Of the public service. A method that is not listed needs ADMIN: forgetting one closes it."""


class TokenEntry(BaseModel):
    """One line of the tokens file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Literal["read", "write", "admin"]
    rate_per_s: float | None = Field(None, gt=0)


class TokensFile(BaseModel):
    """`{"tokens": [{"name": "web", "token_sha256": "…", "role": "read", "rate_per_s": 500}]}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[TokenEntry, ...]

    @field_validator("tokens")
    @classmethod
    def _digests_differ(cls, tokens: tuple[TokenEntry, ...]) -> tuple[TokenEntry, ...]:
        if len({token.token_sha256 for token in tokens}) < len(tokens):
            raise ValueError("two entries have the same token")
        return tokens


@dataclass(frozen=True)
class Identity:
    """A caller whose token or certificate was good."""

    name: str
    role: Role
    rate_per_s: float | None = None


EVERYBODY = Identity("everybody", Role.ADMIN)
"""Where nothing asks who calls."""
INNER = Identity("inner", Role.ADMIN)
"""Another of our services."""

WRITES = frozenset({name for name, role in ROLE_OF_METHOD.items() if role > Role.READ} | {"CreateSnapshot"})
"""Methods, public and inner, that leave a line in the audit log."""


def token_sha256(token: str) -> str:
    """How a token stands in the tokens file.

    A header's bytes that are no UTF-8 arrive as surrogates, from aiohttp; they count as the bytes that they were.
    """
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def new_token(name: str, role: str) -> tuple[str, dict[str, str]]:
    """A random token of 256 bits, and its entry for the tokens file.

    Raises:
        UsageError: the name is not usable.
    """
    token = secrets.token_urlsafe(32)
    entry = {"name": name, "token_sha256": token_sha256(token), "role": role}
    try:
        TokenEntry.model_validate(entry)
    except ValidationError:
        raise UsageError("a name has 1 to 64 letters, digits, dots, dashes or underscores") from None
    return token, entry


class Gate:
    """Decides about a call before its message is read."""

    def __init__(
        self,
        tokens_path: Path | None = None,
        inner_token_path: Path | None = None,
        rate_per_s: float | None = None,
        client_names: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            tokens_path: identities of a public service; None asks nobody.
            inner_token_path: one accepted token a line, for a service that only other services may call.
            rate_per_s: calls a second that each identity may make, unless its entry says otherwise.
            client_names: the caller's certificate must hold one of these names; empty: any certificate will do.

        Raises:
            UsageError: a file is missing or wrong.
        """
        self._tokens = LiveFiles([tokens_path], parse_tokens) if tokens_path else None
        self._inner = LiveFiles([inner_token_path], parse_inner_tokens) if inner_token_path else None
        self._rate_per_s = rate_per_s
        self._client_names = frozenset(client_names)
        self._spent_until: dict[str, float] = {}

    @property
    def is_open(self) -> bool:
        """Nobody is asked who they are."""
        return self._tokens is None and self._inner is None

    @property
    def asks_for_names(self) -> bool:
        """`admit` needs the names in the caller's certificate."""
        return bool(self._client_names)

    def admit(self, method: str, metadata: Mapping[str, str], peer_names: tuple[str, ...] = ()) -> Identity:
        """The caller of a method (`/package.Service/Method`), if it may call it now.

        Raises:
            Unauthenticated, PermissionDenied, RateLimited: it may not.
        """
        if self._client_names and self._client_names.isdisjoint(peer_names):
            raise Unauthenticated("the certificate holds no name that may call here")
        identity = EVERYBODY if self.is_open else self._identify(metadata.get(AUTHORIZATION_KEY, ""))
        name = _name(method)
        needed = ROLE_OF_METHOD.get(name, Role.ADMIN)
        if identity.role < needed:
            raise PermissionDenied(f'{name} needs the role "{needed.name.lower()}"')
        rate_per_s = identity.rate_per_s or self._rate_per_s
        if rate_per_s is not None:
            self._spend(identity.name, rate_per_s)
        return identity

    def _identify(self, authorization: str) -> Identity:
        if not authorization.lower().startswith(_SCHEME):
            raise Unauthenticated('send "authorization: Bearer <token>"')
        digest = token_sha256(authorization[len(_SCHEME) :].strip())
        found: Identity | None = None
        # Every entry is compared, whichever matches: time tells nothing.
        for known, identity in self._known():
            if hmac.compare_digest(known, digest):
                found = identity
        if found is None:
            raise Unauthenticated("the token is not known here")
        return found

    def _known(self) -> list[tuple[str, Identity]]:
        known = list(self._tokens.current()) if self._tokens is not None else []
        if self._inner is not None:
            known += [(token_sha256(token), INNER) for token in self._inner.current()]
        return known

    def _spend(self, name: str, rate_per_s: float) -> None:
        """Generic cell rate algorithm: one number an identity, bursts of a second's worth."""
        now = time.monotonic()
        spent_until = max(now, self._spent_until.get(name, now)) + 1 / rate_per_s
        ahead_s = spent_until - now - max(1.0, 1 / rate_per_s)
        if ahead_s > 1e-9:
            raise RateLimited(rate_per_s, ahead_s)
        self._spent_until[name] = spent_until


def parse_tokens(raw: bytes) -> list[tuple[str, Identity]]:
    """Digest and identity of each entry of a tokens file.

    Raises:
        ValueError: what is wrong, without the content.
    """
    try:
        entries = TokensFile.model_validate(json.loads(raw)).tokens
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ValueError(faults) from None
    except ValueError:
        raise ValueError("not valid JSON") from None
    return [(entry.token_sha256, Identity(entry.name, Role[entry.role.upper()], entry.rate_per_s)) for entry in entries]


def parse_inner_tokens(raw: bytes) -> tuple[str, ...]:
    """The tokens of an inner-token file: the first is sent, all are accepted, so that two overlap while one replaces
    the other.

    Raises:
        ValueError: there is none, or one is too short to be a secret.
    """
    tokens = tuple(line.strip() for line in raw.decode("utf-8", errors="strict").splitlines() if line.strip())
    if not tokens or min(map(len, tokens)) < MIN_TOKEN_LEN or not all(token.isascii() for token in tokens):
        raise ValueError(f"needs one token a line, ASCII, at least {MIN_TOKEN_LEN} characters each")
    return tokens


def audit(method: str, caller: Identity | None, code: str) -> None:
    """One line for a call that changes something; the request id in it leads to the rest of the log.

    Args:
        method: `/package.Service/Method`.
        caller: None where nobody was recognised.
        code: the gRPC code that the call ended with; CANCELLED where it was broken off, whatever it had done by then.
    """
    name = _name(method)
    if name in WRITES:
        get_audit_logger().info(AUDIT, method=name, caller=caller.name if caller else None, code=code)


def _name(method: str) -> str:
    return method.rpartition("/")[2]
