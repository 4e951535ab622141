"""Whose local SuperLink plays this run: another user's, or one started in another environment."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

from fedstrata.support.home import home

logger = logging.getLogger("flwr")
PROC = Path("/proc")
MOST_PARENTS = 8  # this process, Flower's SuperExec and the SuperLink are three
ESTABLISHED, LISTENING = "01", "0A"  # states in /proc/net/tcp
PORT_STEP = 100  # from the port in use to the one that is proposed
FIRST_PORT = 1024  # lower ones are the administrator's


@dataclass(frozen=True)
class SuperLink:
    """The process of a local SuperLink, and the port where `flwr run` finds it."""

    process: int
    port: int


@dataclass(frozen=True)
class Socket:
    """One line of /proc/net/tcp; ``inode`` is the name of the socket in /proc/PID/fd."""

    state: str
    local_port: int
    remote_port: int
    remote_host: ipaddress.IPv4Address | ipaddress.IPv6Address
    uid: int
    inode: int


def warn_of_other_owner() -> None:
    """Warn where the caller of `flwr run` differs from the SuperLink in user or environment.

    `flwr run` uses whatever local SuperLink answers on its port. The app then runs as the user of
    that SuperLink, with its packages and folders, and Flower does not mention it.
    """
    try:
        lines = notices() if sys.platform == "linux" else []
    except Exception as error:  # /proc differs between systems, and no run may fail for a notice
        logger.debug("fedstrata: the SuperLink's owner is unknown: %s", error)
        return
    for line in lines:
        logger.warning("fedstrata: %s", line)


def notices() -> list[str]:
    """Return what to say about the SuperLink of this process; nothing in the ordinary case."""
    superlink = find_superlink(ancestors(os.getpid()))
    if superlink is None:
        return []
    tables = [PROC / "net" / name for name in ("tcp", "tcp6")]
    sockets = [found for path in tables if path.exists() for found in parse(path.read_text())]
    return describe(superlink, sockets)


def describe(superlink: SuperLink, sockets: Sequence[Socket]) -> list[str]:
    """Return what to say about ``superlink``, given the TCP ``sockets`` of the machine."""
    callers = callers_of(superlink.port, sockets)
    other = free_port(superlink.port, sockets)
    ours = settings(os.environ, Path(sys.executable))
    lines = []
    for uid in sorted({caller.uid for caller in callers} - {os.getuid()}):
        lines += other_user(superlink, user_name(os.getuid()), user_name(uid), ours, other)
    own = {caller.inode for caller in callers if caller.uid == os.getuid()}
    for process in processes_with(own):
        # A process may end while it is read; its answer is not needed any more.
        with contextlib.suppress(OSError):
            theirs = settings_of(process)
            lines += other_settings(superlink, process, differences(ours, theirs), other)
    return lines


def other_user(
    superlink: SuperLink, owner: str, caller: str, ours: Mapping[str, str], other_port: int
) -> list[str]:
    """Return the notice about a ``caller`` who uses the SuperLink of ``owner``."""
    values = ", ".join(f"{name} {value}" for name, value in ours.items())
    # A connection does not say which run it is for, so the sentence is true of each.
    return [
        f"the SuperLink on port {superlink.port} belongs to user {owner}, and user {caller} uses it",
        f"runs on it use what belongs to {owner}: {values}",
        f"for a SuperLink of {caller}: {command(other_port)}",
    ]


def other_settings(
    superlink: SuperLink, process: int, different: Mapping[str, tuple[str, str]], other_port: int
) -> list[str]:
    """Return the notice about `flwr run` as ``process`` with settings ``different`` from ours."""
    if not different:
        return []
    values = [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in different.items()]
    return [
        f"the SuperLink on port {superlink.port} was started with other settings than "
        f"the `flwr run` of process {process}",
        f"runs on it use {'; '.join(values)}",
        f"stop the SuperLink (process {superlink.process}), or start another: "
        f"{command(other_port)}",
    ]


def command(port: int) -> str:
    """Return the command line that uses the SuperLink on ``port``."""
    return f"FLWR_LOCAL_CONTROL_API_PORT={port} flwr run ..."


def find_superlink(ancestry: Iterable[tuple[int, Sequence[str]]]) -> SuperLink | None:
    """Return the first process of ``ancestry`` that `flwr run` can have started as a SuperLink.

    Parameters
    ----------
    ancestry : iterable of (int, sequence of str)
        Process and command line of each, the nearest first.
    """
    for process, words in ancestry:
        if any(Path(word).name == "flower-superlink" for word in words[:2]):
            address = dict(pairwise(words)).get("--control-api-address", "")
            host, _, port = address.rpartition(":")
            # Whoever starts a SuperLink for other machines has given its address to the callers.
            return SuperLink(process, int(port)) if host == "127.0.0.1" else None
    return None


def parse(table: str) -> list[Socket]:
    """Return the sockets in the text of /proc/net/tcp or /proc/net/tcp6."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        host, port = fields[2].split(":")
        found.append(
            Socket(
                state=fields[3],
                local_port=int(fields[1].split(":")[1], 16),
                remote_port=int(port, 16),
                remote_host=_address(host),
                uid=int(fields[7]),
                inode=int(fields[9]),
            )
        )
    return found


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address from its 32-bit words, each in the byte order of the machine."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(packed)
    # gRPC opens IPv6 sockets for IPv4 addresses, too.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def callers_of(port: int, sockets: Iterable[Socket]) -> list[Socket]:
    """Return the ends of open connections to ``port`` of this machine that are the callers'."""
    return [
        found
        for found in sockets
        if found.state == ESTABLISHED
        and found.remote_port == port
        and found.remote_host.is_loopback
    ]


def free_port(port: int, sockets: Iterable[Socket]) -> int:
    """Return a port on which nobody listens, where it can be ``PORT_STEP`` above ``port``."""
    taken = {found.local_port for found in sockets if found.state == LISTENING} | {port}
    ports = chain(range(port + PORT_STEP, 2**16), range(FIRST_PORT, port))
    return next(other for other in ports if other not in taken)


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the settings of both that differ, each with our value and theirs."""
    return {
        name: (value, theirs[name])
        for name, value in ours.items()
        if name in theirs and theirs[name] != value
    }


def settings(variables: Mapping[str, str], executable: Path | None) -> dict[str, str]:
    """Return what a process with these environment variables and this Python uses."""
    user_home = Path(variables.get("HOME") or Path.home())
    found = {
        "HOME": user_home,
        "FLWR_HOME": Path(variables.get("FLWR_HOME") or user_home / ".flwr"),
        "FEDSTRATA_HOME": home(variables),
    }
    if executable is not None:
        found = {"packages": python_prefix(executable)} | found
    # A symbolic link to a folder is no other folder.
    return {name: str(path.resolve()) for name, path in found.items()}


def python_prefix(executable: Path) -> Path:
    """Return ``sys.prefix`` of the Python at ``executable``: its environment's folder."""
    for folder in (executable.parent, executable.parent.parent):
        if (folder / "pyvenv.cfg").is_file():
            return folder
    return executable.resolve().parent.parent


def settings_of(process: int) -> dict[str, str]:
    """Return the settings of ``process``; none where it is no `flwr run`.

    Raises
    ------
    OSError
        Where it has ended or belongs to another user.
    """
    words = command_line(process)
    if "run" not in words:  # `flwr log` and `flwr list` start nothing
        return {}
    text = (PROC / str(process) / "environ").read_bytes().decode(errors="replace")
    variables = dict(word.split("=", 1) for word in text.split("\0") if "=" in word)
    # /proc/PID/exe leads past the virtual environment to the Python that it was made from.
    python = shutil.which(words[0], path=variables.get("PATH"))
    known = python is not None and Path(python).name.startswith("python")
    return settings(variables, Path(python) if python is not None and known else None)


def processes_with(inodes: set[int]) -> list[int]:
    """Return the processes of this user that have these sockets, the newest first."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for process in sorted((int(p.name) for p in PROC.iterdir() if p.name.isdigit()), reverse=True):
        if not wanted:
            break
        with contextlib.suppress(OSError):
            folder = PROC / str(process)
            if folder.stat().st_uid != os.getuid():
                continue
            links = {str(link.readlink()) for link in (folder / "fd").iterdir()}
            if links & wanted:
                found.append(process)
                wanted -= links
    return found


def ancestors(process: int) -> list[tuple[int, list[str]]]:
    """Return ``process`` and its parents, each with its command line, up to MOST_PARENTS."""
    found: list[tuple[int, list[str]]] = []
    while process > 0 and len(found) < MOST_PARENTS:
        found.append((process, command_line(process)))
        # The program's name is in brackets, and may contain spaces and brackets itself.
        status = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
        process = int(status[1])
    return found


def command_line(process: int) -> list[str]:
    """Return the words of the command line of ``process``."""
    text = (PROC / str(process) / "cmdline").read_bytes().decode(errors="replace")
    return text.rstrip("\0").split("\0")


def user_name(uid: int) -> str:
    """Return the name of user ``uid``, or the number where it has none."""
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
