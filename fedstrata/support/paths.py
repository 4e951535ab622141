"""Paths as users write them, and what an error says of one that this machine cannot use."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from fedstrata.support.errors import UserError

# A double-quoted "C:\Pictures" of YAML has other characters than a backslash behind the colon.
_DRIVE = re.compile(r"([A-Za-z]):(?!//)")


def absolute_path(text: str, what: str, why: str = "") -> Path:
    """Return an absolute path.

    Parameters
    ----------
    text : str
        As it was written.
    what : str
        The setting, for the error text.
    why : str
        What the error says of a relative path; empty for an example.

    Raises
    ------
    UserError
        The path is relative, one of Windows on another system, or begins with ``~``.
    """
    path = Path(text)
    if path.is_absolute():
        return path
    hint = of_windows(text)
    if not hint and text.startswith("~"):
        hint = "~ is not read here: write the home folder out, as in /home/me/pictures"
    hint = hint or why or "write all of it, as in /srv/pictures"
    raise UserError(f"{what} must be an absolute path, got {text!r}: {hint}")


def path_from_here(text: str, what: str) -> Path:
    """Return the absolute path of what a user names in the current folder; ``~`` is the home.

    Raises
    ------
    UserError
        It is a path of Windows, and this is another system.
    """
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # the home of nobody: a folder that is not there
        path = path.expanduser()
    if not path.is_absolute() and not path.exists() and (hint := of_windows(text)):
        raise UserError(f"{what} {text!r}: {hint}")
    return path.absolute()


def of_windows(text: str) -> str:
    """Return what to write in place of a path of Windows, or "" for any other text."""
    if os.name == "nt":
        return ""
    if text.startswith("\\\\"):
        return "this is a share of Windows; mount it, and write where, as in /mnt/share"
    if found := _DRIVE.match(text):
        return (
            "this is a path of Windows, and on this machine paths begin with /; "
            f"drive {found[1].upper()}: is /mnt/{found[1].lower()} in WSL"
        )
    return ""
