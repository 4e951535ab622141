"""Signatures of runs: Ed25519 over an app bundle and the plan that it may have, by the consortium."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from fedstrata.protocol.limits import Refused

PURPOSE = b"fedstrata bundle and plan v1\n"  # so that a signature means this and nothing else
# What of a plan differs between runs that are alike: their names, and the checkpoint, which a
# server may make itself after the first queries.
NOT_SIGNED = ("federation", "weights")
MOST_SIGNATURES = 1_000  # in a run's configuration: one for each of its plans


def plan_digest(plan: str) -> str:
    """Return the SHA-256 of a plan, in hexadecimal digits, without what differs from run to run."""
    loaded = json.loads(plan)
    kept = {key: value for key, value in loaded.items() if key not in NOT_SIGNED}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sign(bundle: bytes, plan: str, key: Ed25519PrivateKey) -> str:
    """Return the signature of an app bundle together with a plan, given as JSON."""
    return base64.b64encode(key.sign(_statement(bundle, plan_digest(plan)))).decode()


def require_signature(
    bundle: bytes, plan: str, signatures: object, keys: Sequence[Ed25519PublicKey]
) -> Ed25519PublicKey | None:
    """Return which of ``keys`` signed the bundle with this plan; without keys none is needed.

    Parameters
    ----------
    bundle : bytes
        The archive.
    plan : str
        The order's plan, as JSON.
    signatures : object
        What the run's configuration has: signatures with spaces between them, one for each plan of
        the run.
    keys : sequence of Ed25519PublicKey
        Those that the site trusts.

    Raises
    ------
    Refused
        No signature is of this bundle, this plan and one of the keys.
    """
    if not keys:
        return None
    digest = hashlib.sha256(bundle).hexdigest()[:16]
    if not isinstance(signatures, str) or not signatures.split():
        raise Refused(f"the app bundle {digest} is not signed, and this site asks for it")
    hashed = plan_digest(plan)
    statement = _statement(bundle, hashed)
    for text in signatures.split(maxsplit=MOST_SIGNATURES)[:MOST_SIGNATURES]:
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise Refused(f"the signature of the app bundle {digest} cannot be read") from None
        for key in keys:
            try:
                key.verify(raw, statement)
            except InvalidSignature:
                continue
            return key
    raise Refused(
        f"the app bundle {digest} with the plan {hashed[:16]} is not signed with a key that this "
        "site trusts: sign it with the experiment and overrides of the run"
    )


def key_fingerprint(key: Ed25519PublicKey) -> str:
    """Return a key's fingerprint as ``ssh-keygen -l`` prints it."""
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    digest = hashlib.sha256(base64.b64decode(line)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _statement(bundle: bytes, plan: str) -> bytes:
    return PURPOSE + hashlib.sha256(bundle).digest() + bytes.fromhex(plan)
