"""Fingerprints are those of OpenSSH."""

from __future__ import annotations

import pytest

from fedstrata.support.errors import UserError
from fedstrata.support.fingerprints import fingerprint

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


def test_a_fingerprint_is_what_ssh_keygen_prints() -> None:
    expected = "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"
    assert fingerprint(KEY) == fingerprint(f"{KEY} north\n") == expected


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 ?", "a b c"])
def test_what_is_no_key_is_an_error(line: str) -> None:
    with pytest.raises(UserError, match="no public key"):
        fingerprint(line)
