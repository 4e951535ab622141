"""Fingerprints of public keys, as OpenSSH writes them: short enough to be read out on the telephone."""

from __future__ import annotations

import base64
import binascii
import hashlib

from fedstrata.support.errors import UserError


def fingerprint(line: str) -> str:
    """Return the SHA-256 fingerprint of an OpenSSH public key, as ``ssh-keygen -l`` prints it.

    Parameters
    ----------
    line : str
        The key as a ``.pub`` file has it: its kind, the key in base64, and perhaps a comment.
    """
    try:
        blob = base64.b64decode(line.split()[1], validate=True)
    except (IndexError, binascii.Error):
        raise UserError(f"{line[:80]!r} is no public key in OpenSSH's form") from None
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
