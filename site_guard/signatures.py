"""Signatures of app bundles: Ed25519 over the bundle's SHA-256, by a key of the consortium."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError

PURPOSE = b"fedstrata app bundle v1\n"  # so that a signature means this and nothing else


def sign(bundle: bytes, key: Ed25519PrivateKey) -> str:
    """Return the signature of an app bundle, as the run's configuration has it."""
    return base64.b64encode(key.sign(_statement(bundle))).decode()


def require_signature(bundle: bytes, signature: object, keys: Sequence[Ed25519PublicKey]) -> None:
    """Raise Refused unless one of ``keys`` signed the bundle; without keys none is needed."""
    if not keys:
        return
    digest = hashlib.sha256(bundle).hexdigest()
    if not isinstance(signature, str) or not signature:
        raise Refused(f"the app bundle {digest[:16]} is not signed, and this site asks for it")
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"the signature of the app bundle {digest[:16]} cannot be read") from None
    for key in keys:
        try:
            key.verify(raw, _statement(bundle))
        except InvalidSignature:
            continue
        return
    raise Refused(f"the app bundle {digest[:16]} is not signed with a key that this site trusts")


def public_keys(texts: Sequence[str], where: str) -> tuple[Ed25519PublicKey, ...]:
    """Return keys written in OpenSSH's form; raise UserError for anything but Ed25519."""
    keys = []
    for text in texts:
        try:
            key = load_ssh_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise UserError(f"{where}: {text[:40]!r} is no key of the form 'ssh-ed25519 AAAA...'")
        keys.append(key)
    return tuple(keys)


def private_key(path: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 key in an OpenSSH file without a passphrase.

    Raises
    ------
    UserError
        There is no such key.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(
            f"{path}: no Ed25519 key in OpenSSH's form without a passphrase; "
            "make one with: ssh-keygen -t ed25519 -N '' -f consortium"
        )
    return key


def _statement(bundle: bytes) -> bytes:
    return PURPOSE + hashlib.sha256(bundle).digest()
