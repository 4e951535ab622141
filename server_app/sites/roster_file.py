"""The server's roster: a YAML file that binds the names and tasks of sites to their keys."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from fedstrata.protocol.limits import NAME
from fedstrata.support.errors import UserError, nearest
from server_app.sites.allowed_keys import AllowedSite, AllowedSites

VARIABLE = "FEDSTRATA_ROSTER"
MOST_NODE_ID = 2**64 - 1


class _Line(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """One site as the file has it."""

    task: str
    node_id: int
    public_key: str
    most_examples: int | None = None


class _Loader(yaml.SafeLoader):
    """YAML without objects, in which a key that stands twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; raise where two keys are equal (plain YAML takes the last)."""
        seen: list[object] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key!r} stands there twice", problem_mark=key_node.start_mark
                )
            seen.append(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def find_roster() -> AllowedSites | None:
    """Return the roster that the server's own environment names, or None where it names none.

    The run config never names it: whoever submits a run writes that.
    """
    path = os.environ.get(VARIABLE)
    return read_roster(Path(path)) if path else None


def roster_line(allowed: AllowedSites | None) -> str:
    """Return what the log says about the roster when a run begins."""
    if allowed is None:
        return f"no roster ({VARIABLE} is not set): each site is who it says it is"
    return f"roster: {len(allowed.by_site)} sites, bound to their keys"


def read_roster(path: Path) -> AllowedSites:
    """Read a roster.

    Parameters
    ----------
    path : Path
        A YAML file: ``sites``, and under it by name ``{task, node-id, public-key}``, with
        ``most-examples`` where a site may not announce any number of training examples.

    Raises
    ------
    UserError
        Where the file cannot be read, has a key that does not exist, lacks one, has a wrong
        value, or the same site, node or key twice; texts of keys are not repeated.
    """
    where = f"{VARIABLE}: {path}"
    if not path.is_absolute():
        raise UserError(f"{where}: the server needs an absolute path")
    try:
        loaded = yaml.load(path.read_text(), _Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where} cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an odd date
        raise UserError(f"{where} is no YAML: {_shown(error)}") from None
    sites = _keys(loaded, ("sites",), where)["sites"]
    if not isinstance(sites, dict) or not sites:
        raise UserError(
            f"{where}: under 'sites' there must be at least one site, by name: "
            'hospital-a: {task: gender, node-id: 1234, public-key: "ecdsa-sha2-nistp384 AAAA..."}'
        )
    entries = [_entry(name, line, where) for name, line in sites.items()]
    for what in ("node_id", "fingerprint"):
        _refuse_twice(entries, what, where)
    return AllowedSites(entries)


def _entry(name: object, line: object, where: str) -> AllowedSite:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{where}: {name!r} cannot be a site's name: letters, digits, '.', '_' and '-', at "
            "most 64 characters, beginning with a letter or digit; quote what YAML takes for a "
            "number or a yes"
        )
    here = f"{where}: {name}"
    optional = {"most-examples"}
    names = [field.encode_name for field in msgspec.structs.fields(_Line)]
    given = [n for n in names if n not in optional or (isinstance(line, dict) and n in line)]
    try:
        entry = msgspec.convert(_keys(line, given, here), _Line)
    except msgspec.ValidationError as error:
        raise UserError(f"{here}: {error}") from None
    if not NAME.fullmatch(entry.task):
        raise UserError(f"{here}: task {entry.task[:80]!r} cannot be a task's name")
    if not 0 < entry.node_id <= MOST_NODE_ID:
        raise UserError(
            f"{here}: node-id {entry.node_id} is none; 'flwr supernode register' prints it"
        )
    if entry.most_examples is not None and entry.most_examples < 1:
        raise UserError(f"{here}: most-examples must be at least 1, got {entry.most_examples}")
    key = fingerprint(entry.public_key, here)
    return AllowedSite(name, entry.task, entry.node_id, key, entry.most_examples)


def fingerprint(public_key: str, where: str) -> str:
    """Return the fingerprint of a line as in ``hospital-a.pub``: ``SHA256:...``.

    Raises
    ------
    UserError
        Where it is not the public half of an elliptic-curve key, the only kind that Flower takes.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    problem = (
        f"{where}: public-key must be the one line of the site's .pub file, beginning with "
        "'ecdsa-sha2-nistp384'"
    )
    if "PRIVATE KEY" in public_key:
        raise UserError(f"{problem}; a private key stands there: take it out, and make new keys")
    try:
        key = load_ssh_public_key(public_key.strip().encode())
        blob = base64.b64decode(public_key.split()[1], validate=True)
    except (ValueError, IndexError, UnsupportedAlgorithm, binascii.Error):
        raise UserError(problem) from None
    if not isinstance(key, EllipticCurvePublicKey):
        raise UserError(problem)
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def _keys(mapping: object, names: list[str] | tuple[str, ...], where: str) -> dict[str, Any]:
    """Return ``mapping`` if it is a mapping with exactly the keys ``names``."""
    if not isinstance(mapping, Mapping):
        raise UserError(
            f"{where}: expected {', '.join(names)} by name, not {type(mapping).__name__}"
        )
    for key in mapping:
        if key not in names:
            raise UserError(
                f"{where} has no key {str(key)[:80]!r}; there is {nearest(str(key), names)}"
            )
    if missing := [name for name in names if name not in mapping]:
        raise UserError(f"{where}: {', '.join(missing)} is missing")
    return dict(mapping)


def _refuse_twice(entries: list[AllowedSite], what: str, where: str) -> None:
    seen: dict[object, str] = {}
    for entry in entries:
        value = getattr(entry, what)
        if other := seen.get(value):
            same = {"node_id": f"node-id {value}", "fingerprint": f"public-key {value}"}[what]
            raise UserError(
                f"{where}: {other} and {entry.site} have the same {same}: each site has its own"
            )
        seen[value] = entry.site


def _shown(error: BaseException) -> str:
    """Return what is wrong and in which line, without the lines themselves: keys stand there."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or type(error).__name__
    return f"{problem} (line {mark.line + 1})" if mark is not None else str(problem)
