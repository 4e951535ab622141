"""Keys of sites, made for a test."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from tests.server_app.sites.test_roster_file import public_line


def new_key() -> str:
    return public_line(ec.generate_private_key(ec.SECP384R1()))
