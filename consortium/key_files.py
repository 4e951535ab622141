"""How keys, certificates and their folders are written: private ones to be read by their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fedstrata.support.durable import replacing
from fedstrata.support.errors import UserError

PRIVATE_FOLDER, PUBLIC_FOLDER = 0o700, 0o755
PRIVATE_FILE, PUBLIC_FILE = 0o600, 0o644


def make_folder(path: Path, mode: int) -> Path:
    """Make a folder with just this mode, whatever the umask, and return it."""
    path.mkdir(mode=PRIVATE_FOLDER)
    path.chmod(mode)
    return path


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file that has this mode from the first moment on, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)


def replace(path: Path, data: bytes, mode: int) -> None:
    """Write a file anew: after a crash there is the old one or the new one."""
    with replacing(path) as unfinished:
        write(unfinished, data, mode)


def read(path: Path) -> bytes:
    """Return what a file holds; raise UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_key(path: Path) -> EllipticCurvePrivateKey:
    """Return the private key in a PEM file; raise UserError if there is none."""
    try:
        key = load_pem_private_key(read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UserError(f"{path} is no private key in PEM form") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UserError(f"{path} is no key of an elliptic curve")
    return key


def pem(key: EllipticCurvePrivateKey) -> bytes:
    """Return a private key as a PEM file has it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def openssh(key: Ed25519PrivateKey) -> bytes:
    """Return a private key as OpenSSH writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def openssh_public(key: Ed25519PrivateKey, comment: str) -> bytes:
    """Return the line of a public-key file."""
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return public + f" {comment}\n".encode()
