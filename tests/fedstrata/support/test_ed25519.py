"""Ed25519 keys are read as ssh-keygen writes them; any other kind is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedstrata.support.ed25519 import private_key, public_keys
from fedstrata.support.errors import UserError
from tests.helpers.keys import public_line

KEY = Ed25519PrivateKey.generate()


def test_keys_are_read_as_ssh_keygen_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "consortium"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (public,) = public_keys([public_line(KEY) + " consortium"], "here")
    public.verify(private_key(path).sign(b"text"), b"text")


def test_another_kind_of_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "consortium"
    with pytest.raises(UserError, match="ssh-ed25519"):
        public_keys(["ecdsa nonsense"], "here")
    curve = generate_private_key(SECP384R1())
    path.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(UserError, match="ssh-keygen"):
        private_key(path)
    with pytest.raises(UserError, match="absent"):
        private_key(tmp_path / "absent")
