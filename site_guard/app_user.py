"""The user as whom the app's process runs, where it is not the guard's own."""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from fedstrata.support.errors import UserError
from site_guard.own_process import missing_capabilities

_NUMBERS = re.compile(r"(\d{1,9}):(\d{1,9})")


@dataclass(frozen=True)
class AppUser:
    """A user by numbers.

    Parameters
    ----------
    name : str
        As the log and errors call it.
    uid, gid : int
        The user, and its first group.
    groups : tuple of int
        All its groups.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    def may_write(self, path: Path) -> bool:
        """Whether the user may write to a file or folder, by its mode; False where it is not there."""
        try:
            status = path.stat()
        except OSError:
            return False
        if status.st_uid == self.uid:
            return bool(status.st_mode & 0o200)
        if status.st_gid in self.groups:
            return bool(status.st_mode & 0o020)
        return bool(status.st_mode & 0o002)


def read_user(text: str, where: str) -> AppUser:
    """Return the user that ``app-user`` in site.yaml names, as ``NAME`` or ``UID:GID``.

    Raises
    ------
    UserError
        There is no such user, it is root, or the user as whom this process runs.
    """
    if match := _NUMBERS.fullmatch(text):
        uid, gid = int(match[1]), int(match[2])
        user = AppUser(text, uid, gid, (gid,))
    else:
        try:
            entry = pwd.getpwnam(text)
        except (KeyError, ValueError):
            raise UserError(
                f"{where}: this machine has no user {text!r}: write a user's name, or numbers as in "
                "'1000:1000'"
            ) from None
        groups = os.getgrouplist(text, entry.pw_gid)
        user = AppUser(text, entry.pw_uid, entry.pw_gid, tuple(groups))
    if user.uid == 0 or 0 in user.groups:
        raise UserError(f"{where}: the app must not run as root or in root's group: name another")
    if user.uid == os.geteuid():
        raise UserError(
            f"{where}: {text} is the user of this process itself: name another, or leave it out"
        )
    return user


def refuse_without_capabilities(where: str) -> None:
    """Raise UserError where this process may not start another user's."""
    if missing := missing_capabilities():
        raise UserError(
            f"{where}: starting the app as another user needs {', '.join(missing)}: start this "
            "process with them, as deploy/systemd/fedstrata-site.service does, or as root"
        )


def own_user() -> AppUser:
    """Return the user as whom this process runs."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return AppUser(name, uid, gid, tuple({gid, *os.getgroups()}))
