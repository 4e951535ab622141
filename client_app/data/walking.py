"""Walks a folder once, and counts what is hidden, linked or the system's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from client_app.data.findings import Findings
from client_app.data.paths import describe_file, reject_escape
from fedstrata.support.errors import UserError

HIDDEN, SYSTEM_FOLDER, SYSTEM_FILE, LINK = "hidden", "system folder", "system file", "link"
DEEPEST = 64
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
_SYSTEM_FOLDERS |= {".git", ".svn", ".trash", ".trashes", ".spotlight-v100", ".fseventsd"}
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r"}


@dataclass
class Folder:
    """A folder and all that may be used in it; names are sorted.

    Parameters
    ----------
    path : Path
        Where it is.
    files : dict
        Names of files, and whether each is a plain one: no link, no device.
    folders : dict
        Names of folders.
    links : list of str
        Names of links to folders, which are not followed.
    """

    path: Path
    files: dict[str, bool] = field(default_factory=dict)
    folders: dict[str, Folder] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)

    def below(self, before: str = "") -> Iterator[tuple[str, bool]]:
        """Yield each file under the folder, as ``a/b.png``, and whether it is plain, by path."""
        for name in sorted([*self.files, *self.folders]):
            if name in self.folders:
                yield from self.folders[name].below(f"{before}{name}/")
            else:
                yield before + name, self.files[name]

    @cached_property
    def count(self) -> int:
        """How many files are under the folder."""
        return len(self.files) + sum(folder.count for folder in self.folders.values())

    def every(self) -> Iterator[Folder]:
        """Yield the folder and all under it."""
        yield self
        for folder in self.folders.values():
            yield from folder.every()


def walk(root: Path, folder: Path, findings: Findings) -> Folder:
    """Return what is in ``folder``, which lies inside ``root``; links to folders are not followed.

    Raises
    ------
    UserError
        The folder is a link that leaves ``root``.
    OSError
        A folder cannot be opened.
    """
    reject_escape(root, folder)
    return _walk(folder, findings)


def follow(root: Path, folder: Folder, findings: Findings) -> None:
    """Take the links to folders among the folders, where they stay inside ``root``.

    Raises
    ------
    UserError
        A link leaves ``root``.
    """
    for name in folder.links:
        path = folder.path / name
        reject_escape(root, path)
        if folder.path.resolve().is_relative_to(path.resolve()):  # it would never end
            findings.leave_out(LINK, describe_file(path))
        else:
            folder.folders[name] = _walk(path, findings)
    folder.links.clear()


def leave_links(folder: Folder, findings: Findings) -> None:
    """Count all links to folders that are still there as left out."""
    for each in folder.every():
        for name in each.links:
            findings.leave_out(LINK, describe_file(each.path / name))


def _walk(folder: Path, findings: Findings, depth: int = 0) -> Folder:
    if depth > DEEPEST:
        raise UserError(describe_file(folder) + f": folders in folders, deeper than {DEEPEST}")
    found = Folder(folder)
    with os.scandir(folder) as opened:
        entries = sorted(opened, key=lambda entry: entry.name)
    for entry in entries:
        name = entry.name
        if name.casefold() in _SYSTEM_FILES:
            findings.leave_out(SYSTEM_FILE, describe_file(folder / name))
        elif not entry.is_symlink() and entry.is_dir(follow_symlinks=False):
            reason = _reason(name)
            if reason is None:
                found.folders[name] = _walk(folder / name, findings, depth + 1)
            elif many := sum(len(files) for _, _, files in os.walk(entry.path)):
                findings.leave_out(reason, describe_file(folder / name), many)
        elif name.startswith("."):
            findings.leave_out(HIDDEN, describe_file(folder / name))
        elif entry.is_symlink() and (folder / name).is_dir():
            found.links.append(name)
        else:
            found.files[name] = entry.is_file(follow_symlinks=False)
    return found


def _reason(folder: str) -> str | None:
    """Return why a folder of that name is not used, or None."""
    if folder.casefold() in _SYSTEM_FOLDERS or folder.startswith("__"):
        return SYSTEM_FOLDER
    return HIDDEN if folder.startswith(".") else None
