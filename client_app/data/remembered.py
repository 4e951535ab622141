"""Keeps what was listed of a folder for the other sites of a simulation, until the folder changes."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

from client_app.data.findings import Findings

MOST = 4  # listings at once: one for each task of a folder
YOUNG = 2_000_000_000  # ns: a folder this young could change again without a new time
Found = TypeVar("Found")
FolderStamp = tuple[tuple[str | int, ...], ...]

_kept: OrderedDict[Hashable, tuple[FolderStamp, object, Findings]] = OrderedDict()


def folder_stamp(root: Path) -> FolderStamp:
    """Return the folders at and under ``root``: path, device, number, and both times of change in ns.

    Links are not followed. A file that comes, goes or is replaced changes it; one that is written
    anew in its place does not.
    """
    found: list[tuple[str | int, ...]] = []
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        seen = Path(folder).stat()
        found.append((folder, seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns))
        with os.scandir(folder) as entries:
            waiting.extend(each.path for each in entries if each.is_dir(follow_symlinks=False))
    return tuple(sorted(found))


def is_young(stamp: FolderStamp) -> bool:
    """Return whether a folder changed so lately that it could change again without a new time."""
    newest = max(max(int(changed), int(set_)) for *_, changed, set_ in stamp)
    return newest >= time.time_ns() - YOUNG


def remembered(
    key: Hashable,
    root: Path,
    findings: Findings,
    make: Callable[[Findings, FolderStamp], Found],
) -> Found:
    """Return what ``make`` returned for an equal key and folder, with its findings; else make it.

    Parameters
    ----------
    key : Hashable
        All that ``make`` depends on, besides what files there are under ``root``.
    root : Path
        The folder.
    findings : Findings
        Notes what ``make`` found, now or the first time.
    make : callable
        Lists the folder; it gets the folder's stamp as it was before.
    """
    stamp = folder_stamp(root)
    if key in _kept and _kept[key][0] == stamp:
        _kept.move_to_end(key)
        findings.add(_kept[key][2])
        return _kept[key][1]  # type: ignore[return-value]
    own = Findings()
    try:
        made = make(own, stamp)
    finally:
        findings.add(own)
    if not is_young(stamp):
        _kept[key] = stamp, made, own
        while len(_kept) > MOST:
            _kept.popitem(last=False)
    return made
