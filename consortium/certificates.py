"""The certificates of a consortium: the authority's own, and those that it issues for a server."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consortium.key_files import read
from fedstrata.support.errors import UserError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # public authorities give at most 398


def authority_certificate(key: EllipticCurvePrivateKey) -> bytes:
    """Return the certificate by which an authority is known, PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedstrata consortium")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _certificate(name, name, key.public_key(), AUTHORITY_DAYS)
        # It signs servers, no further authorities.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
        .public_bytes(Encoding.PEM)
    )


def request(key: EllipticCurvePrivateKey, hosts: Sequence[str]) -> bytes:
    """Return a request, PEM, for a certificate of a server's ``key`` under the names ``hosts``."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_server_name(hosts))
        .add_extension(_alternatives(hosts), critical=False)
        .sign(key, hashes.SHA384())
        .public_bytes(Encoding.PEM)
    )


def read_request(path: Path, hosts: Sequence[str]) -> EllipticCurvePublicKey:
    """Return the public key of a request for a certificate.

    Raises
    ------
    UserError
        It is no request, it was not signed by its own key, or it is for other names than ``hosts``.
    """
    try:
        found = x509.load_pem_x509_csr(read(path))
        key, good = found.public_key(), found.is_signature_valid
    except (ValueError, TypeError, InvalidSignature):
        raise UserError(f"{path} is no request for a certificate, as `found` writes it") from None
    if not good or not isinstance(key, EllipticCurvePublicKey):
        raise UserError(
            f"{path} is not signed by an elliptic-curve key of its own: ask for it again"
        )
    if (asked := _names(found.extensions)) != set(hosts):
        raise UserError(
            f"{path} asks for {', '.join(sorted(asked)) or 'no name'}, and --server says "
            f"{', '.join(sorted(hosts))}: ask the coordinator which names are right"
        )
    return key


def server_certificate(
    key: EllipticCurvePublicKey,
    hosts: Sequence[str],
    authority: EllipticCurvePrivateKey,
    issuer: x509.Certificate,
) -> bytes:
    """Return a certificate, PEM, that the authority issues for a server's public ``key``."""
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    return (
        _certificate(_server_name(hosts), issuer.subject, key, SERVER_DAYS)
        .add_extension(_alternatives(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(known, critical=False)
        .sign(authority, hashes.SHA384())
        .public_bytes(Encoding.PEM)
    )


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file; raise UserError if there is none."""
    try:
        return x509.load_pem_x509_certificate(read(path))
    except ValueError:
        raise UserError(f"{path} is no certificate in PEM form") from None


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether the authority's key signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _server_name(hosts: Sequence[str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
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


def _alternatives(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_host(host) for host in hosts])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _names(extensions: x509.Extensions) -> set[str]:
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in found}
