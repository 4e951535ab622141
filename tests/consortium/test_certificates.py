"""Certificates are issued for the names that a person confirms, by one authority."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import given
from hypothesis import strategies as st

from consortium.certificates import (
    authority_certificate,
    issued_by,
    read_certificate,
    read_request,
    request,
    server_certificate,
)
from consortium.key_files import openssh
from fedstrata.support.errors import UserError

KEY, OTHER = generate_private_key(SECP384R1()), generate_private_key(SECP384R1())
NAMES = ("superlink.example", "10.0.0.2")


def test_a_request_is_for_the_names_that_it_says(tmp_path: Path) -> None:
    path = tmp_path / "server.csr"
    path.write_bytes(request(KEY, NAMES))
    assert read_request(path, NAMES[::-1]) == KEY.public_key()
    for names in (NAMES[:1], (*NAMES, "bank.example"), ("bank.example",)):
        with pytest.raises(UserError, match=r"superlink\.example.*--server says"):
            read_request(path, names)


def test_a_request_with_another_key_in_it_is_refused(tmp_path: Path) -> None:
    mine, theirs = (request(key, NAMES) for key in (KEY, OTHER))
    (tmp_path / "server.csr").write_bytes(mine[:200] + theirs[200:])
    with pytest.raises(UserError, match=r"server\.csr"):
        read_request(tmp_path / "server.csr", NAMES)


@given(st.binary(max_size=200))
def test_what_is_no_request_is_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("csr") / "server.csr"
    path.write_bytes(data)
    with pytest.raises(UserError, match="no request"):
        read_request(path, NAMES)
    with pytest.raises(UserError, match="no certificate"):
        read_certificate(path)


def test_a_key_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(openssh(Ed25519PrivateKey.generate()))
    with pytest.raises(UserError, match="no certificate"):
        read_certificate(tmp_path / "ca.crt")


def test_an_authority_vouches_for_what_it_issued_alone() -> None:
    ours, other = (load_pem_x509_certificate(authority_certificate(key)) for key in (KEY, OTHER))
    pem = server_certificate(OTHER.public_key(), NAMES, KEY, ours)
    server = load_pem_x509_certificate(pem)
    assert issued_by(server, ours)
    assert not issued_by(server, other)
