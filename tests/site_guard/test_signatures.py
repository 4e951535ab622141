"""A bundle runs where a trusted key signed it, and nowhere else."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from site_guard.signatures import private_key, public_keys, require_signature, sign

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TRUSTED = (OTHER.public_key(), KEY.public_key())


def openssh(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_a_signed_bundle_is_taken_and_another_is_not() -> None:
    require_signature(b"bundle", sign(b"bundle", KEY), TRUSTED)
    with pytest.raises(Refused, match="not signed with a key"):
        require_signature(b"bundle", sign(b"bundle", KEY), TRUSTED[:1])
    with pytest.raises(Refused, match="not signed with a key"):
        require_signature(b"bundle!", sign(b"bundle", KEY), TRUSTED)
    with pytest.raises(Refused, match="is not signed"):
        require_signature(b"bundle", None, TRUSTED)
    require_signature(b"bundle", None, ())


def test_the_signature_is_for_this_purpose_alone() -> None:
    import hashlib

    bare = base64.b64encode(KEY.sign(hashlib.sha256(b"bundle").digest())).decode()
    with pytest.raises(Refused):
        require_signature(b"bundle", bare, TRUSTED)


@given(st.text() | st.integers() | st.binary().map(lambda b: base64.b64encode(b).decode()))
def test_any_other_text_is_no_signature(signature: object) -> None:
    with pytest.raises(Refused):
        require_signature(b"bundle", signature, TRUSTED)


def test_keys_are_read_as_ssh_keygen_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "consortium"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (public,) = public_keys([openssh(KEY) + " consortium"], "here")
    require_signature(b"bundle", sign(b"bundle", private_key(path)), (public,))
    with pytest.raises(UserError, match="ssh-ed25519"):
        public_keys(["ecdsa nonsense"], "here")
    curve = generate_private_key(SECP384R1())
    path.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(UserError, match="ssh-keygen"):
        private_key(path)
    with pytest.raises(UserError, match="absent"):
        private_key(tmp_path / "absent")
