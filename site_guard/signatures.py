"""Signatures of runs: Ed25519 over an app bundle, its plan and its start, by the consortium.

The start is the pre-trained checkpoint. A signature names it, as ``START:BASE64``: by its content
hash, or the hash of those of several models; as ``none``; or as ``any``, where the signer left it
open, since the run makes it itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import Refused, printable
from fedstrata.protocol.plan import AGREED_LATER

PURPOSE = b"fedstrata bundle, plan and start v2\n"  # so that a signature means this alone
# What of a plan has no part in its digest: the name of the run, which differs between runs that are
# alike; the checkpoint, which the first queries do not have yet and which is signed beside it; and
# the scale and the categories that sites agree on later.
APART = ("federation", "weights", "starts", *AGREED_LATER)
ANY, NONE = "any", "none"
MOST_SIGNATURES = 1_000  # in a run's configuration: one for each of its plans
_START = re.compile(rf"[0-9a-f]{{64}}|{ANY}|{NONE}")


@dataclass(frozen=True)
class Signed:
    """Who signed an order's bundle, plan and start, and what the signature says of the start."""

    key: Ed25519PublicKey
    start: str


def plan_digest(plan: str) -> str:
    """Return the SHA-256 of a plan, in hexadecimal digits, without its run's name and its start."""
    loaded = json.loads(plan)
    kept = {key: value for key, value in loaded.items() if key not in APART}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def agreed_digests(plan: str) -> dict[str, str]:
    """Return the SHA-256 of what sites have agreed on since the run was signed, as a plan has it.

    Returns
    -------
    dict of str to str
        By field of the plan: ``agreed`` is the scale, ``categories`` the categories.
    """
    loaded = json.loads(plan)
    agreed = {name: loaded[name] for name in AGREED_LATER if loaded.get(name) is not None}
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for name, value in agreed.items()
    }


def start_of(plan: Mapping[str, Any]) -> str:
    """Return what a plan starts from, as a signature names it."""
    starts = plan.get("starts")
    if not starts:
        return plan.get("weights") or NONE
    if not isinstance(starts, dict) or ANY in starts.values():
        return ANY
    return hashlib.sha256(json.dumps(starts, sort_keys=True).encode()).hexdigest()


def sign(bundle: bytes, plan: str, key: Ed25519PrivateKey) -> str:
    """Return the signature of an app bundle together with a plan, given as JSON.

    The plan's ``weights`` are the start: a content hash, `ANY`, or "" for none.
    """
    start = start_of(json.loads(plan))
    raw = key.sign(_statement(bundle, plan_digest(plan), start))
    return f"{start}:{base64.b64encode(raw).decode()}"


def require_signature(
    bundle: bytes, plan: str, signatures: object, keys: Sequence[Ed25519PublicKey], kind: str
) -> Signed | None:
    """Return which of ``keys`` signed bundle, plan and start; without keys none is needed.

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
    kind : str
        Of the order. The first queries name no checkpoint yet.

    Raises
    ------
    Refused
        No signature is of this bundle, this plan, this start and one of the keys.
    """
    if not keys:
        return None
    digest = hashlib.sha256(bundle).hexdigest()[:16]
    if not isinstance(signatures, str) or not signatures.split():
        raise Refused(f"the app bundle {digest} is not signed, and this site asks for it")
    hashed, begins = plan_digest(plan), start_of(json.loads(plan))
    other_start = ""
    for text in signatures.split(maxsplit=MOST_SIGNATURES)[:MOST_SIGNATURES]:
        start, _, encoded = text.partition(":")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if not raw or not _START.fullmatch(start):
            raise Refused(f"the signature of the app bundle {digest} cannot be read")
        for key in keys:
            try:
                key.verify(raw, _statement(bundle, hashed, start))
            except InvalidSignature:
                continue
            if start in (ANY, begins) or (kind == kinds.QUERY and begins == NONE):
                return Signed(key, start)
            other_start = start
    if other_start:
        raise Refused(
            f"the run starts from {_named(begins)}, and what is signed starts from "
            f"{_named(other_start)}: sign it again with the checkpoint of the run"
        )
    raise Refused(
        f"the app bundle {digest} with the plan {hashed[:16]} is not signed with a key that this "
        "site trusts: sign it with the experiment and overrides of the run"
    )


def _named(start: object) -> str:
    return "no checkpoint" if start == NONE else f"checkpoint {printable(str(start))[:16]}"


def key_fingerprint(key: Ed25519PublicKey) -> str:
    """Return a key's fingerprint as ``ssh-keygen -l`` prints it."""
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    digest = hashlib.sha256(base64.b64decode(line)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _statement(bundle: bytes, plan: str, start: str) -> bytes:
    return PURPOSE + hashlib.sha256(bundle).digest() + bytes.fromhex(plan) + start.encode()
