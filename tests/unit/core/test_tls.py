"""What is looked at before certificates are put to use."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from clozerec_core.errors import UsageError
from clozerec_core.tls import check_ca, check_pair


def written(directory: Path, name: str) -> tuple[Path, Path]:
    issued = trustme.CA().issue_cert("localhost")
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return cert, key


def test_a_pair_is_good_while_the_files_hold_what_was_read(tmp_path: Path) -> None:
    (cert, key), (other_cert, other_key) = written(tmp_path, "one"), written(tmp_path, "other")
    read = cert.read_bytes(), key.read_bytes()
    check_pair(cert, key, read)
    with pytest.raises(UsageError, match="no valid pair"):
        check_pair(cert, other_key, (read[0], other_key.read_bytes()))
    # Both were replaced after they had been read: what lies there fits, what was read need not.
    cert.write_bytes(other_cert.read_bytes())
    key.write_bytes(other_key.read_bytes())
    with pytest.raises(ValueError, match="changed"):
        check_pair(cert, key, read)


@pytest.mark.parametrize("pem", [b"", b"half a fi", b"-----BEGIN CERTIFICATE-----\nMIIB\n"])
def test_what_is_no_certificate_is_no_authority(pem: bytes) -> None:
    check_ca(b"# na\xc3\xafve comment\n" + trustme.CA().cert_pem.bytes())
    with pytest.raises(ValueError, match="no valid certificate"):
        check_ca(pem)
