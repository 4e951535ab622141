"""Ed25519 keys in OpenSSH's form: of those who sign app bundles, and of audit logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedstrata.support.errors import UserError


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
