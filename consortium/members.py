"""Who the consortium is made of: names that become folders, tasks, and where the server is found."""

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
    """A site of the consortium: its name, and the task that it has."""

    name: str
    task: str


def read_hospitals(told: Sequence[str]) -> tuple[Hospital, ...]:
    """Return hospitals written as ``name:task``.

    Raises
    ------
    UserError
        An entry is no such pair, or a name is there twice.
    """
    hospitals = []
    for text in told:
        name, _, task = text.partition(":")
        if not NAME.fullmatch(name) or not NAME.fullmatch(task):
            raise UserError(
                f"--hospital {text[:80]!r}: write name:task, each of letters, digits, '.', '_' and '-'"
            )
        hospitals.append(Hospital(name, task))
    names = [hospital.name for hospital in hospitals]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--hospital: {', '.join(twice)} is there twice")
    return tuple(hospitals)


def read_hosts(told: Sequence[str]) -> tuple[str, ...]:
    """Return the names and addresses under which sites reach the server; raise UserError for others."""
    if not told:
        raise UserError("--server: name at least one host name or IP address of the SuperLink")
    for host in told:
        if not _is_address(host) and not _HOST.fullmatch(host):
            raise UserError(f"--server {host[:80]!r} is no host name and no IP address")
    return tuple(dict.fromkeys(told))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
