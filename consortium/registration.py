"""Registers the hospitals' keys with the SuperLink, and writes the roster: which key is which site."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from consortium.certificates import HOSPITALS, hospitals_in
from fedstrata.support.durable import replacing
from fedstrata.support.errors import UserError

ROSTER = "superlink/roster.yaml"


class Nodes(Protocol):
    """The part of `consortium.superlink.SuperLink` that registration needs."""

    def nodes(self) -> dict[bytes, int]:
        """Return the ids of all nodes by public key, PEM."""

    def register(self, public_key: Path) -> int:
        """Register the key in a file; return its node's id."""


class RosterSite(
    msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True, omit_defaults=True
):
    """One site of the roster; the coordinator may write ``most-examples``, which stays."""

    task: str
    node_id: int
    public_key: str
    most_examples: int | None = None


class Roster(msgspec.Struct, forbid_unknown_fields=True):
    """The roster: each site's task, node and key, by name."""

    sites: dict[str, RosterSite] = {}


def register(folder: Path, superlink: Nodes, roster_path: Path | None = None) -> dict[str, int]:
    """Register every hospital that the SuperLink does not know; return all node ids by name.

    By the roster, ``superlink/roster.yaml``, the server binds names and tasks to keys. It is
    written after each registration, from what the SuperLink knows. So an interrupted registration
    can go on, and the same command repairs the loss of the SuperLink's database or of the roster.

    Parameters
    ----------
    folder : Path
        The consortium's.
    superlink : Nodes
        Where to register them.
    roster_path : Path or None
        Where the roster is, if not in ``folder``.

    Raises
    ------
    UserError
        There are no hospitals, a key or the roster cannot be read, or the SuperLink refuses a key,
        with Flower's reason.
    """
    hospitals = hospitals_in(folder)
    if not hospitals:
        raise UserError(f"{folder / HOSPITALS} has no hospitals")
    path = roster_path or folder / ROSTER
    roster = read_roster(path)
    known = superlink.nodes()
    for hospital in hospitals:
        public = folder / HOSPITALS / hospital.name / "supernode.pub"
        line, pem = _public_key(public)
        node_id = known.get(pem) or _registered(public, superlink)
        before = roster.sites.get(hospital.name)
        most = before.most_examples if before else None
        entry = RosterSite(hospital.task, node_id, line, most)
        if before != entry:
            roster.sites[hospital.name] = entry
            # After each hospital: Flower registers a key once, so its node id must not be lost.
            with replacing(path) as unfinished:
                entries = msgspec.to_builtins(roster)
                unfinished.write_text(yaml.safe_dump(entries, sort_keys=True))
    return {name: entry.node_id for name, entry in roster.sites.items()}


def _registered(public: Path, superlink: Nodes) -> int:
    try:
        return superlink.register(public)
    except UserError as error:
        if "already in use" not in str(error):
            raise
        raise UserError(
            f"{public}: the SuperLink knows this key, and has no node for it: it was unregistered, "
            f"and no key is taken twice. Move {public.parent} away and make new ones with "
            f"`fedstrata consortium add` ({error})"
        ) from None


def read_roster(path: Path) -> Roster:
    """Return the roster in a file, empty if there is no file; raise UserError if it is damaged."""
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=Roster)
    except FileNotFoundError:
        return Roster()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged: {str(error).splitlines()[0]}; move it away and register again: "
            "hospitals that the SuperLink knows keep their nodes"
        ) from None


def _public_key(path: Path) -> tuple[str, bytes]:
    """Return the public key in a file twice: as the roster writes it, and as the SuperLink does."""
    try:
        text = path.read_text()
        kind, key, *_ = text.split()
        public = load_ssh_public_key(text.encode())
    except (OSError, ValueError, UnsupportedAlgorithm):
        raise UserError(
            f"{path} is no public key in OpenSSH's form: 'ecdsa-sha2-nistp384 AAAA... name'"
        ) from None
    return f"{kind} {key}", public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
