"""Whether the SuperNode's key and the authority's certificate are such as Flower takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePrivateKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from site_guard.doctor.checks import Check, ok, problem
from site_guard.doctor.files import check_private

SOON = timedelta(days=30)
NEW_KEY = "make one with `fedstrata site keygen`, and send its .pub file to the coordinator"


def read_node_key(path: Path) -> EllipticCurvePrivateKey | None:
    """Return the SuperNode's key; None where the file has no key that Flower takes."""
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, EllipticCurvePrivateKey):
        return None
    return key if isinstance(key.curve, SECP256R1 | SECP384R1 | SECP521R1) else None


def check_key(path: Path) -> Iterator[Check]:
    """Check the SuperNode's private key, and that the public key beside it belongs to it."""
    yield check_private("key", path)
    key = read_node_key(path)
    if key is None:
        if path.exists():
            text = f"{path} is no ECDSA key in OpenSSH's form without a passphrase"
            yield problem("key's kind", text, NEW_KEY)
        return
    public = path.with_suffix(".pub")
    try:
        written = load_ssh_public_key(public.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        text = f"{public} cannot be read, so nobody can see which key is registered"
        yield problem("key's pair", text, f"ssh-keygen -y -f {path} > {public}")
        return
    encoding = (Encoding.OpenSSH, PublicFormat.OpenSSH)
    mine = key.public_key().public_bytes(*encoding)
    if written.public_bytes(*encoding) != mine:
        text = f"{public} is of another key: the coordinator may have registered that one"
        yield problem("key's pair", text, f"ssh-keygen -y -f {path} > {public}, and send it again")
        return
    yield ok(
        "key's pair", f"{public} belongs to the key: ask the coordinator for {mine[-12:].decode()}"
    )


def check_authority(path: Path, now: datetime | None = None) -> Check:
    """Check that the authority's certificate can be read, signs others, and has not run out."""
    try:
        (certificate, *_) = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        return problem("authority", f"{path}: {error.strerror}", "ask the coordinator for ca.crt")
    except ValueError:
        text = f"{path} is no certificate in PEM form"
        return problem("authority", text, "ask the coordinator for ca.crt")
    return check_dates("authority", str(path), certificate, now)


def check_dates(
    name: str, where: str, certificate: x509.Certificate, now: datetime | None = None
) -> Check:
    """Check that a certificate is valid now, by this machine's clock, and for a while."""
    now = now or datetime.now(UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        return problem(
            name,
            f"{where} is valid from {begins:%Y-%m-%d %H:%M} UTC on, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M}",
            "set the clock: timedatectl set-ntp true",
        )
    mend = "ask the coordinator for a new one: `fedstrata consortium renew`"
    if now > ends:
        return problem(name, f"{where} ran out on {ends:%Y-%m-%d %H:%M} UTC", mend)
    if ends - now < SOON:
        return problem(name, f"{where} runs out in {(ends - now).days} days", mend)
    return ok(name, f"{where} is valid until {ends:%Y-%m-%d}")
