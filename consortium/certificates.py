"""The certificate authority of a consortium, the server's certificate, and a key pair per hospital."""

from __future__ import annotations

import ipaddress
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
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
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consortium.members import Hospital
from fedstrata.support.durable import replacing, sync
from fedstrata.support.errors import UserError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # public authorities give at most 398
AUTHORITY, SUPERLINK, HOSPITALS, SIGNING = "authority", "superlink", "hospitals", "signing"


def create_consortium(folder: Path, hosts: Sequence[str], hospitals: Sequence[Hospital]) -> None:
    """Make the keys and certificates of a new consortium, in a new folder.

    ======================================  ========================================================
    ``authority/ca.key``, ``ca.crt``        of the certificate authority; the key stays offline
    ``superlink/server.key``, ``.crt``      for ``flower-superlink --ssl-keyfile --ssl-certfile``
    ``hospitals/NAME/supernode.key``        for that hospital's ``flower-supernode`` alone
    ``hospitals/NAME/supernode.pub``        registered with the SuperLink
    ``hospitals/NAME/ca.crt``               the authority's, to check the server's certificate
    ``signing/bundle.key``, ``.pub``        Ed25519, to sign app bundles
    ======================================  ========================================================

    Only their owner can read private keys.

    Parameters
    ----------
    folder : Path
        Made here.
    hosts : sequence of str
        Names and IP addresses by which sites reach the server.
    hospitals : sequence of Hospital
        The sites.

    Raises
    ------
    UserError
        The folder exists (keys are never overwritten) or cannot be made.
    """
    if folder.exists():
        raise UserError(
            f"{folder} exists, and keys are never overwritten: choose another folder, or add a "
            "hospital with `fedstrata consortium add`"
        )
    key = generate_private_key(SECP384R1())
    certificate = _authority(key)
    server = generate_private_key(SECP384R1())
    signed = _server(server, hosts, key, certificate)
    signing = Ed25519PrivateKey.generate()
    public = certificate.public_bytes(Encoding.PEM)
    with _new_folder(folder) as made:
        _write_private(made / AUTHORITY / "ca.key", _pem(key))
        _write_public(made / AUTHORITY / "ca.crt", public)
        _write_private(made / SUPERLINK / "server.key", _pem(server))
        _write_public(made / SUPERLINK / "server.crt", signed.public_bytes(Encoding.PEM))
        _write_public(made / SUPERLINK / "ca.crt", public)
        _write_private(made / SIGNING / "bundle.key", _openssh(signing))
        _write_public(made / SIGNING / "bundle.pub", _openssh_public(signing, "bundle"))
        for hospital in hospitals:
            add_hospital(made, hospital)


def add_hospital(folder: Path, hospital: Hospital) -> None:
    """Make the key pair of one more hospital.

    Raises
    ------
    UserError
        There is no consortium in ``folder``, it has this hospital, or it cannot be written.
    """
    try:
        authority = (folder / AUTHORITY / "ca.crt").read_bytes()
    except OSError:
        raise UserError(
            f"{folder} has no consortium: make one with `fedstrata consortium found`"
        ) from None
    home = folder / HOSPITALS / hospital.name
    if home.exists():
        raise UserError(f"{home} exists, and keys are never overwritten")
    key = generate_private_key(SECP384R1())  # the kind that Flower registers
    with _new_folder(home) as made:
        _write_private(made / "supernode.key", _openssh(key))
        _write_public(made / "supernode.pub", _openssh_public(key, hospital.name))
        _write_public(made / "task", f"{hospital.task}\n".encode())
        _write_public(made / "ca.crt", authority)


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which only its owner can read; on leaving it is renamed to ``path``.

    So a command that is killed leaves either a whole consortium or none.

    Raises
    ------
    UserError
        Something there cannot be made or written.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir(mode=0o700)
        yield unfinished
        for written in (*unfinished.rglob("*"), unfinished):
            sync(written)
        unfinished.rename(path)
        sync(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be made: {error.filename}: {error.strerror}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def renew_certificate(folder: Path, hosts: Sequence[str]) -> None:
    """Make a new key and certificate for the server, by the same authority."""
    try:
        pem = (folder / AUTHORITY / "ca.key").read_bytes()
        certificate = x509.load_pem_x509_certificate((folder / AUTHORITY / "ca.crt").read_bytes())
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    server = generate_private_key(SECP384R1())
    signed = _server(server, hosts, key, certificate).public_bytes(Encoding.PEM)
    with replacing(folder / SUPERLINK / "server.key") as path:
        _write_private(path, _pem(server))
    with replacing(folder / SUPERLINK / "server.crt") as path:
        _write_public(path, signed)


def hospitals_in(folder: Path) -> tuple[Hospital, ...]:
    """Return the hospitals with keys in ``folder``, by name; raise UserError if one is damaged."""
    keys = sorted((folder / HOSPITALS).glob("[!.]*/supernode.pub"))
    try:
        tasks = [(path.parent / "task").read_text().strip() for path in keys]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    return tuple(Hospital(key.parent.name, task) for key, task in zip(keys, tasks, strict=True))


def _authority(key: EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedstrata consortium")])
    usage = _usage(sign_certificates=True)
    return (
        _certificate(name, name, key, AUTHORITY_DAYS)
        # It signs servers, no further authorities.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def _server(
    key: EllipticCurvePrivateKey,
    hosts: Sequence[str],
    authority: EllipticCurvePrivateKey,
    issuer: x509.Certificate,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    return (
        _certificate(name, issuer.subject, key, SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(known, critical=False)
        .sign(authority, hashes.SHA384())
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _openssh(key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _openssh_public(key: EllipticCurvePrivateKey | Ed25519PrivateKey, comment: str) -> bytes:
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return public + f" {comment}\n".encode()


def _write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read, from the first moment on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _write_public(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
