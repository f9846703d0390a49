"""The gateway's way to an inner service: a channel whose certificates follow their files, and the inner identity.

gRPC has no client credentials that change; so when a file does, calls go to a new channel, and the old one closes once
the calls under way on it have had their time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from clozerec_core.access import AUTHORIZATION_KEY, parse_inner_tokens
from clozerec_core.live_file import LiveFiles
from clozerec_core.rpc_client import open_channel, whole
from clozerec_core.tls import channel_credentials

Metadata = Sequence[tuple[str, str]]

CLOSE_AFTER_S = 30.0
"""How long an old channel's calls may still take."""


@dataclass(frozen=True)
class InnerAccess:
    """How the gateway shows who it is, and whom it believes."""

    ca_path: Path | None = None
    """Signs the inner services' certificates; None: no TLS."""
    cert_path: Path | None = None
    key_path: Path | None = None
    """Shown to services that ask for a client certificate."""
    token_path: Path | None = None
    """Its first line is sent with every call."""


class RemoteStub:
    """A service's stub whose methods take a request, a timeout and metadata, as generated stubs do."""

    def __init__(self, stub_type: Callable[[grpc.aio.Channel], Any], target: str, access: InnerAccess) -> None:
        """
        Raises:
            UsageError: a file is missing or wrong.
        """
        self._stub_type = stub_type
        self._target = target
        self._credentials = (
            channel_credentials(access.ca_path, access.cert_path, access.key_path) if access.ca_path else None
        )
        self._tokens = LiveFiles([access.token_path], parse_inner_tokens) if access.token_path else None
        self._used: grpc.ChannelCredentials | None = self._credentials.current() if self._credentials else None
        self._channel = open_channel(target, self._used)
        self._stub = stub_type(self._channel)
        self._closing: set[asyncio.Task[None]] = set()

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, *, timeout: float | None = None, metadata: Metadata = ()) -> Any:  # noqa: ASYNC109
            if self._credentials is not None and self._credentials.current() is not self._used:
                self._reconnect(self._credentials.current())
            if self._tokens is not None:
                metadata = (*metadata, (AUTHORIZATION_KEY, f"Bearer {self._tokens.current()[0]}"))
            return await whole(getattr(self._stub, method)(request, timeout=timeout, metadata=metadata))

        setattr(self, method, call)
        return call

    async def __aenter__(self) -> RemoteStub:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the channel, and older ones at once."""
        for task in self._closing:
            task.cancel()
        await self._channel.close()

    def _reconnect(self, credentials: grpc.ChannelCredentials) -> None:
        old, self._used = self._channel, credentials
        self._channel = open_channel(self._target, credentials)
        self._stub = self._stub_type(self._channel)
        task = asyncio.create_task(old.close(CLOSE_AFTER_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
