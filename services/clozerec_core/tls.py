"""Certificates of servers and clients, read again when their files change.

A server's certificate, key and client CA rotate at the next handshake, by gRPC's own dynamic credentials; the JSON
front's handshakes take a context that is made anew; a client opens a new channel (`rpc_client.RemoteStub`).
"""

from __future__ import annotations

import ssl
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
    check_pair(paths.cert, paths.key)
    files = [paths.key, paths.cert, *([paths.client_ca] if paths.client_ca else [])]
    live = LiveFiles(files, _server_configuration)
    return grpc.dynamic_ssl_server_credentials(
        live.current(), live.current, require_client_authentication=paths.client_ca is not None
    )


def _server_configuration(
    key: bytes, cert: bytes, client_ca: bytes | None = None
) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=client_ca)


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
        context.load_cert_chain(cert, key)
    except ssl.SSLError:
        raise UsageError(f"{cert}, {key}: no valid pair of certificate and key") from None
    except OSError as error:
        raise UsageError(f"{cert}, {key}: {error.strerror}") from None


def check_pair(cert: Path, key: Path) -> None:
    """gRPC accepts a key that does not fit and fails at every handshake; refuse it by name instead.

    Raises:
        UsageError: a file is missing, or key and certificate do not fit.
    """
    _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
