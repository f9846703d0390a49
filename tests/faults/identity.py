"""Certificates and tokens of a stack, laid out as a mounted secret is: all of them change at once, by a symlink."""

from __future__ import annotations

import datetime
import json
import ssl
from pathlib import Path

import grpc
import trustme
from cryptography import x509

from clozerec_core.access import new_token
from faults.asking import Caller

NAMES = ("localhost", "127.0.0.1")


class Identities:
    """Of every process of a stack, and of who calls it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._authority = trustme.CA()
        self._ca_path = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self._ca_path))
        (directory / "inner").write_text("an-inner-token-of-some-length\n")
        token, entry = new_token("faults", "read")
        (directory / "tokens.json").write_text(json.dumps({"tokens": [entry]}))
        self._num_issued = 0
        self.caller: Caller = (self.credentials(), token)
        self.rotate()

    def credentials(self) -> grpc.ChannelCredentials:
        """Of a caller who trusts the authority; new ones, for a new handshake."""
        return grpc.ssl_channel_credentials(self._ca_path.read_bytes())

    def rotate(self, is_expired: bool = False) -> int:
        """Put a new certificate in place of the present one; its serial number."""
        self._num_issued += 1
        issued = self._directory / f"issued-{self._num_issued}"
        issued.mkdir()
        until = datetime.datetime(2020, 1, 1) if is_expired else None
        pair = self._authority.issue_cert(*NAMES, not_before=datetime.datetime(2019, 1, 1), not_after=until)
        pair.private_key_pem.write_to_path(str(issued / "key.pem"))
        pair.cert_chain_pems[0].write_to_path(str(issued / "cert.pem"))
        link = self._directory / "next"
        link.symlink_to(issued)
        link.rename(self._directory / "current")
        return x509.load_pem_x509_certificate(pair.cert_chain_pems[0].bytes()).serial_number

    def variables(self) -> dict[str, str]:
        """Settings of every process."""
        current = self._directory / "current"
        return {
            "CLOZEREC_TLS_CERT_PATH": str(current / "cert.pem"),
            "CLOZEREC_TLS_KEY_PATH": str(current / "key.pem"),
            "CLOZEREC_INNER_CA_PATH": str(self._ca_path),
            "CLOZEREC_INNER_TOKEN_PATH": str(self._directory / "inner"),
            "CLOZEREC_TOKENS_PATH": str(self._directory / "tokens.json"),
        }


def served_serial(port: int) -> int:
    """Serial number of the certificate that a port shows to a newcomer."""
    pem = ssl.get_server_certificate(("127.0.0.1", port))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number
