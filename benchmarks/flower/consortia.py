"""A consortium with hospitals, as the commands make one: each hospital makes its own keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from consortium.founding import found
from consortium.hospital_keys import add_hospital
from consortium.members import Hospital
from site_guard.keys import make_keys


def new_consortium(
    folder: Path, hosts: Sequence[str] = ("localhost",), hospitals: Sequence[Hospital] = ()
) -> Path:
    """Return the consortium's folder; ``authority``, ``signing`` and hospitals' keys lie beside it."""
    found(folder, hosts, folder.with_name("authority"), folder.with_name("signing"))
    for hospital in hospitals:
        admit(folder, hospital)
    return folder


def security_of(folder: Path, hospital: str) -> list[str]:
    """Return the options by which a hospital's SuperNode knows the server, and is known there."""
    key = folder.with_name("at-hospitals") / hospital / "supernode.key"
    certificate = folder / "public" / "ca.crt"
    return ["--root-certificates", str(certificate), "--auth-supernode-private-key", str(key)]


def admit(folder: Path, hospital: Hospital, *, replaces: bool = False) -> Path:
    """Have a hospital make its keys, and the consortium take in the public ones; return the keys."""
    places = folder.with_name("at-hospitals")
    at = places / (f"{hospital.name}-again" if replaces else hospital.name)
    make_keys(at, hospital.name)
    keys = at / "supernode.pub", at / "audit.pub"
    add_hospital(folder, hospital, *keys, replaces=replaces)
    return at
