"""A consortium is founded: each key is made where it stays, in a folder of its own."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consortium.certificates import (
    authority_certificate,
    issued_by,
    read_certificate,
    read_request,
    request,
    server_certificate,
)
from consortium.key_files import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    PUBLIC_FILE,
    PUBLIC_FOLDER,
    make_folder,
    openssh,
    openssh_public,
    pem,
    read,
    read_key,
    replace,
    write,
)
from fedstrata.support.durable import new_folder
from fedstrata.support.errors import UserError

SUPERLINK, SERVERAPP, REQUEST = "superlink", "serverapp", "request"
PUBLIC, HOSPITALS, ROSTER = "public", "hospitals", "roster"
SECRET = "appio.secret"
SECRET_BYTES = 32


def found(folder: Path, hosts: Sequence[str], authority: Path | None, signing: Path) -> None:
    """Make a new consortium in a new folder, and its signing key in another.

    =================================  =============================================================
    ``superlink/server.key``           stays with the SuperLink's user, as all of ``superlink/``
    ``superlink/server.crt, ca.crt``   the server's certificate and its authority's
    ``superlink/appio.secret``         by which the SuperLink knows the SuperExec
    ``serverapp/``                     the same secret and ``ca.crt``, for the SuperExec's user
    ``public/ca.crt, bundle.pub``      for every hospital and the operator; nothing secret
    ``hospitals/``                     public keys, one folder a hospital
    ``roster/``                        where registration writes the roster
    =================================  =============================================================

    The authority's key and the signing key are never in this folder: whoever gets it, or runs as
    its user, must not have them.

    Parameters
    ----------
    folder : Path
        Made here.
    hosts : sequence of str
        Names and IP addresses by which sites reach the server.
    authority : Path or None
        Folder of the authority; made where there is none. None if the authority is on another
        machine: then ``request/`` has what to send there, and `accept` takes the answer.
    signing : Path
        Folder of the key that signs app bundles; made where there is none.

    Raises
    ------
    UserError
        The folder exists (keys are never overwritten), one folder lies in another, or one cannot be
        made.
    """
    _check_apart(folder, signing, *([authority] if authority else []))
    if folder.exists():
        raise UserError(
            f"{folder} exists, and keys are never overwritten: choose another folder, or add a "
            "hospital with `fedstrata consortium add`"
        )
    if authority is not None:
        make_authority(authority)
    _make_signing(signing)
    with new_folder(folder, PUBLIC_FOLDER) as made:
        for name in (PUBLIC, HOSPITALS, ROSTER):
            make_folder(made / name, PUBLIC_FOLDER)
        secret = secrets.token_bytes(SECRET_BYTES)
        for name in (SUPERLINK, SERVERAPP):
            write(make_folder(made / name, PRIVATE_FOLDER) / SECRET, secret, PRIVATE_FILE)
        write(made / PUBLIC / "bundle.pub", read(signing / "bundle.pub"), PUBLIC_FILE)
        _request(made, hosts)
        if authority is not None:
            certify(made / REQUEST / "server.csr", authority, hosts)
            accept(made, made / REQUEST)


def make_authority(folder: Path) -> bool:
    """Make ``ca.key`` and ``ca.crt`` of an authority, unless they are there; return whether so."""
    if (folder / "ca.key").exists():
        return False
    key = generate_private_key(SECP384R1())
    with new_folder(_new(folder, "ca.key"), PRIVATE_FOLDER) as made:
        write(made / "ca.key", pem(key), PRIVATE_FILE)
        write(made / "ca.crt", authority_certificate(key), PUBLIC_FILE)
    return True


def certify(csr: Path, authority: Path, hosts: Sequence[str]) -> None:
    """Write ``server.crt`` and ``ca.crt`` beside a request; the authority is made if it is new.

    Parameters
    ----------
    csr : Path
        The request, ``server.csr``.
    authority : Path
        Folder of the authority.
    hosts : sequence of str
        The names that the request may be for, from another source than the request.
    """
    key = read_request(csr, hosts)
    make_authority(authority)
    certificate = read_certificate(authority / "ca.crt")
    signed = server_certificate(key, hosts, read_key(authority / "ca.key"), certificate)
    replace(csr.with_name("server.crt"), signed, PUBLIC_FILE)
    replace(csr.with_name("ca.crt"), read(authority / "ca.crt"), PUBLIC_FILE)


def renew(folder: Path, hosts: Sequence[str], authority: Path | None) -> None:
    """Make a new key for the server, and its certificate; without an authority only the request."""
    if not (folder / SUPERLINK).is_dir():
        raise UserError(f"{folder} has no consortium: make one with `fedstrata consortium found`")
    if authority is not None and not (authority / "ca.key").exists():
        raise UserError(
            f"{authority} has no ca.key: give the folder of this consortium's authority"
        )
    _request(folder, hosts)
    if authority is not None:
        certify(folder / REQUEST / "server.csr", authority, hosts)
        accept(folder, folder / REQUEST)


def accept(folder: Path, answer: Path) -> None:
    """Put the authority's answer, ``server.crt`` and ``ca.crt``, and the server's new key in place.

    Raises
    ------
    UserError
        Nothing was asked for, the certificate is of another key or authority than it should be.
    """
    key_path = folder / REQUEST / "server.key"
    if not key_path.exists():
        raise UserError(f"{key_path} is not there: ask with `fedstrata consortium renew` first")
    key = read_key(key_path)
    certificate = read_certificate(answer / "server.crt")
    authority = read_certificate(answer / "ca.crt")
    if certificate.public_key() != key.public_key():
        raise UserError(f"{answer / 'server.crt'} is of another key than {key_path}")
    if not issued_by(certificate, authority):
        raise UserError(f"{answer / 'server.crt'} was not issued by {answer / 'ca.crt'}")
    known = folder / PUBLIC / "ca.crt"
    if known.exists() and read_certificate(known) != authority:
        raise UserError(
            f"{answer / 'ca.crt'} is another authority than {known}, which all hospitals have: "
            "have the request signed by that one"
        )
    root = read(answer / "ca.crt")
    for name in (PUBLIC, SERVERAPP, SUPERLINK):
        replace(folder / name / "ca.crt", root, PUBLIC_FILE)
    # The request goes last: a command that is killed in between can be given again.
    replace(folder / SUPERLINK / "server.key", pem(key), PRIVATE_FILE)
    replace(folder / SUPERLINK / "server.crt", read(answer / "server.crt"), PUBLIC_FILE)
    shutil.rmtree(folder / REQUEST)


def _request(folder: Path, hosts: Sequence[str]) -> None:
    """Make a new key for the server in ``request/``, and the request for its certificate."""
    if (folder / REQUEST).exists():
        raise UserError(
            f"{folder / REQUEST} exists: take its answer with `fedstrata consortium accept`, or "
            "remove it to ask anew"
        )
    key = generate_private_key(SECP384R1())
    with new_folder(folder / REQUEST, PRIVATE_FOLDER) as made:
        write(made / "server.key", pem(key), PRIVATE_FILE)
        write(made / "server.csr", request(key, hosts), PUBLIC_FILE)


def _make_signing(folder: Path) -> None:
    if (folder / "bundle.key").exists():
        return
    key = Ed25519PrivateKey.generate()
    with new_folder(_new(folder, "bundle.key"), PRIVATE_FOLDER) as made:
        write(made / "bundle.key", openssh(key), PRIVATE_FILE)
        write(made / "bundle.pub", openssh_public(key, "bundle"), PUBLIC_FILE)


def _new(folder: Path, key: str) -> Path:
    if folder.exists():
        raise UserError(f"{folder} exists and has no {key}: choose a new folder")
    return folder


def _check_apart(*folders: Path) -> None:
    """Raise UserError where one of the folders lies in another, or two are the same."""
    places = [(folder, folder.resolve()) for folder in folders]
    for at, (folder, place) in enumerate(places):
        for other, outer in (*places[:at], *places[at + 1 :]):
            if place.is_relative_to(outer):
                raise UserError(
                    f"{folder} lies in {other}: whoever gets that folder would get these keys; give "
                    "the consortium, its authority and its signing key a folder each"
                )
