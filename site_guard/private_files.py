"""Files of the site's process that nobody else may read: whole or not at all, 0600 in folders 0700."""

from __future__ import annotations

import os
from pathlib import Path

from fedstrata.support.durable import replacing_private


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner enters, whatever the umask; its parents as usual."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid == os.geteuid():
        folder.chmod(0o700)


def write_private(path: Path, data: bytes) -> None:
    """Write a file in a folder of `make_folder`, which replaces the one before.

    The administrator may write it too. It then belongs to the folder's owner, who must read it.
    """
    owner = path.parent.stat()
    with replacing_private(path) as unfinished:
        unfinished.write_bytes(data)
        if os.geteuid() != owner.st_uid:
            os.chown(unfinished, owner.st_uid, owner.st_gid)
