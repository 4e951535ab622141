"""The keys that a hospital makes for itself: nobody else ever has the private ones."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedstrata.support.durable import PRIVATE_FILE, PRIVATE_FOLDER, new_folder
from fedstrata.support.errors import UserError

NODE, AUDIT = "supernode", "audit"


def make_keys(folder: Path, name: str) -> dict[str, str]:
    """Make a site's two key pairs in a new folder; return the public lines by pair.

    ===========================  =============================================================
    ``supernode.key``, ``.pub``  ECDSA P-384, the kind that Flower registers: the SuperNode's
    ``audit.key``, ``.pub``      Ed25519: the site's process signs its audit log with it
    ===========================  =============================================================

    Private keys can be read by their owner alone, from the first moment on.

    Raises
    ------
    UserError
        The folder exists, since keys are never overwritten, or it cannot be written.
    """
    made: dict[str, str] = {}
    pairs: dict[str, EllipticCurvePrivateKey | Ed25519PrivateKey] = {
        NODE: generate_private_key(SECP384R1()),
        AUDIT: Ed25519PrivateKey.generate(),
    }
    if folder.exists():
        raise UserError(f"{folder} exists, and keys are never overwritten: choose a new folder")
    with new_folder(folder, PRIVATE_FOLDER) as unfinished:
        for pair, key in pairs.items():
            made[pair] = _public_line(key, name)
            _write(unfinished / f"{pair}.key", _private(key), PRIVATE_FILE)
            _write(unfinished / f"{pair}.pub", made[pair].encode() + b"\n", 0o644)
    return made


def _private(key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _public_line(key: EllipticCurvePrivateKey | Ed25519PrivateKey, comment: str) -> str:
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return f"{public.decode()} {comment}"


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
