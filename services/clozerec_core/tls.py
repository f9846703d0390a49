"""Certificates of servers and clients, read again when their files change.

A server's certificate, key and client CA rotate at the next handshake, by gRPC's own dynamic credentials; the JSON
front's handshakes take a context that is made anew; a client opens a new channel (`rpc_client.RemoteStub`).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from clozerec_core.errors import UsageError
from clozerec_core.live_file import LiveFiles


@dataclass(frozen=True)
class TlsPaths:
    """PEM files."""

    cert: Path
    key: Path
    client_ca: Path | None = None
    """Set: clients must show a certificate that this CA signed."""


def server_credentials(paths: TlsPaths) -> grpc.ServerCredentials:
    """Credentials that follow the files.

    Raises:
        UsageError: a file is missing, or key and certificate do not fit.
    """

    def load(cert: bytes, key: bytes, client_ca: bytes | None = None) -> grpc.ServerCertificateConfiguration:
        check_pair(paths.cert, paths.key, (cert, key))
        if client_ca is not None:
            check_ca(client_ca)
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=client_ca)

    live = LiveFiles([paths.cert, paths.key, *([paths.client_ca] if paths.client_ca else [])], load)
    return grpc.dynamic_ssl_server_credentials(
        live.current(), live.current, require_client_authentication=paths.client_ca is not None
    )


def channel_credentials(
    ca: Path, cert: Path | None = None, key: Path | None = None
) -> LiveFiles[grpc.ChannelCredentials]:
    """Credentials of a client, made anew when the files change.

    Args:
        ca: signs the servers' certificates.
        cert, key: shown to servers that ask for a certificate; both or neither.

    Raises:
        UsageError: a file is missing, or key and certificate do not fit.
    """

    def load(authority: bytes, *pair: bytes) -> grpc.ChannelCredentials:
        check_ca(authority)
        if cert is None or key is None:
            return grpc.ssl_channel_credentials(authority)
        check_pair(cert, key, pair)
        chain, private_key = pair
        return grpc.ssl_channel_credentials(authority, private_key, chain)

    return LiveFiles([ca, *([cert, key] if cert and key else [])], load)


def http_context(paths: TlsPaths) -> ssl.SSLContext:
    """A context for the JSON front, TLS 1.2 or newer, whose handshakes use what the files hold by then.

    Raises:
        UsageError: a file is missing, or key and certificate do not fit.
    """

    def load(*_: bytes) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_pair(context, paths.cert, paths.key)
        if paths.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(paths.client_ca)
        return context

    live = LiveFiles([paths.cert, paths.key, *([paths.client_ca] if paths.client_ca else [])], load)

    def on_hello(handshake: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        handshake.context = live.current()

    listening = live.current()
    listening.sni_callback = on_hello
    return listening


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    try:
        # With a password none is asked for on the terminal.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError:
        raise UsageError(f"{cert}, {key}: no valid pair of certificate and key") from None
    except OSError as error:
        raise UsageError(f"{cert}, {key}: {error.strerror}") from None


def check_pair(cert: Path, key: Path, read: Sequence[bytes]) -> None:
    """gRPC accepts a key that does not fit and fails at every handshake; refuse it by name instead.

    Python takes certificates from files alone, and a key should be in no second one: so the files are looked at where
    they lie, and then still have to hold what was read before.

    Args:
        cert, key: the files.
        read: what they held.

    Raises:
        UsageError: a file is missing, or key and certificate do not fit. ValueError, OSError: they are being replaced.
    """
    _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
    if [cert.read_bytes(), key.read_bytes()] != list(read):
        raise ValueError("the files changed while they were read")


def check_ca(pem: bytes) -> None:
    """gRPC takes what is no certificate for nobody whom it believes.

    Raises:
        ValueError: this is no PEM of certificates.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", errors="ignore"))
    except (ssl.SSLError, ValueError):
        raise ValueError("the CA's file holds no valid certificate") from None
