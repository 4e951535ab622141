"""The hospitals of a consortium and the names of its server, as they are given on a command line."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedstrata.protocol.limits import NAME
from fedstrata.support.errors import UserError

_HOST = re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True)
class Hospital:
    """A site of the consortium: its name and its task."""

    name: str
    task: str


def read_hospitals(texts: Sequence[str]) -> tuple[Hospital, ...]:
    """Return hospitals written as ``name:task``.

    Raises
    ------
    UserError
        An entry is no such pair, or a name is given twice.
    """
    hospitals = []
    for text in texts:
        name, _, task = text.partition(":")
        if not NAME.fullmatch(name) or not NAME.fullmatch(task):
            raise UserError(
                f"--hospital {text[:80]!r}: write name:task, each of letters, digits, '.', '_' and '-'"
            )
        hospitals.append(Hospital(name, task))
    names = [hospital.name for hospital in hospitals]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--hospital: {', '.join(twice)} is given twice")
    return tuple(hospitals)


def read_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Return the names and addresses of the server, each once; raise UserError for anything else."""
    if not hosts:
        raise UserError("--server: name at least one host name or IP address of the SuperLink")
    for host in hosts:
        if not _is_address(host) and not _HOST.fullmatch(host):
            raise UserError(f"--server {host[:80]!r} is no host name and no IP address")
    return tuple(dict.fromkeys(hosts))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
