"""Registers the hospitals' keys with the SuperLink, and writes the roster: which key is which site."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import yaml

from consortium.founding import HOSPITALS
from consortium.founding import ROSTER as ROSTER_FOLDER
from consortium.hospital_keys import NODE, hospitals_in, read_public_key
from consortium.key_files import PUBLIC_FILE
from consortium.members import Hospital
from fedstrata.support.durable import replacing
from fedstrata.support.errors import UserError

ROSTER = f"{ROSTER_FOLDER}/roster.yaml"
Log = Callable[[str], None]


class Nodes(Protocol):
    """The part of `consortium.superlink.SuperLink` that registration needs."""

    def nodes(self) -> dict[bytes, int]:
        """Return the ids of all nodes by public key, PEM."""

    def register(self, public_key: Path) -> int:
        """Register the key in a file; return its node's id."""

    def unregister(self, node_id: int) -> None:
        """Let a node connect no more; its key is never taken again."""


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


def register(
    folder: Path, superlink: Nodes, roster_path: Path | None = None, *, log: Log = lambda line: None
) -> dict[str, int]:
    """Register every hospital that the SuperLink does not know; return all node ids by name.

    By the roster, ``roster/roster.yaml``, the server binds names and tasks to keys. It is written
    after each registration, from what the SuperLink knows. So an interrupted registration can go
    on, and the same command repairs the loss of the SuperLink's database or of the roster.

    A hospital with a new key gets a new node, after its old one was unregistered.

    Parameters
    ----------
    folder : Path
        The consortium's.
    superlink : Nodes
        Where to register them.
    roster_path : Path or None
        Where the roster is, if not in ``folder``.
    log : callable
        Receives one line for what a person should know.

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
        public = folder / HOSPITALS / hospital.name / NODE
        key = read_public_key(public)
        old = roster.sites.get(hospital.name)
        # The old key goes first: it may be in wrong hands. The roster has it until the new one is
        # registered, so that a break in between is repaired by the same command.
        if old and old.public_key != key.line and old.node_id in known.values():
            superlink.unregister(old.node_id)
            known = {pem: node for pem, node in known.items() if node != old.node_id}
            log(f"{hospital.name}: its old key is unregistered, node {old.node_id}")
        node_id = known[key.pem] if key.pem in known else _registered(public, hospital, superlink)
        known[key.pem] = node_id
        entry = RosterSite(hospital.task, node_id, key.line, old.most_examples if old else None)
        if old != entry:
            roster.sites[hospital.name] = entry
            # After each hospital: Flower registers a key once, so its node id must not be lost.
            with replacing(path) as unfinished:
                entries = msgspec.to_builtins(roster)
                unfinished.write_text(yaml.safe_dump(entries, sort_keys=True))
                unfinished.chmod(PUBLIC_FILE)  # the ServerApp's user reads it
    for node_id in sorted(set(known.values()) - {entry.node_id for entry in roster.sites.values()}):
        log(
            f"node {node_id} is registered and no hospital's: "
            f"`flwr supernode unregister {node_id} CONNECTION` keeps it out"
        )
    return {name: entry.node_id for name, entry in roster.sites.items()}


def _registered(public: Path, hospital: Hospital, superlink: Nodes) -> int:
    try:
        return superlink.register(public)
    except UserError as error:
        if "already in use" not in str(error):
            raise
        raise UserError(
            f"{public}: the SuperLink knows this key, and has no node for it: it was unregistered, "
            f"and no key is taken twice. Have {hospital.name} make new keys with `fedstrata site "
            "keygen`, and take them in with `fedstrata consortium add FOLDER --hospital "
            f"{hospital.name}:{hospital.task} --key NEW.pub --replace` ({error})"
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
