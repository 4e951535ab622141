"""Keys of sites, made for a test."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def public_line(key: Any) -> str:
    """Return the line of a public-key file that belongs to a private key."""
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return str(key.public_key().public_bytes(encoding, form).decode())


def new_key() -> str:
    """Return the line of a public key that nobody has had."""
    return public_line(ec.generate_private_key(ec.SECP384R1()))
