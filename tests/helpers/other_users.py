"""Commands that run as other users of this machine, for which the tests must be root's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="starts processes as other users"
)
# Where Python lies in a home that others may not enter: a view of the files, for this process and
# its children alone, in which they reach Python and nothing else there.
_VIEW = (
    'mount --bind "$1" /mnt; mount -t tmpfs -o mode=755 none "$2"; mkdir -p "$1"; '
    'mount --move /mnt "$1"; shift 2; exec "$@"'
)


def as_user(user: int, *command: str) -> list[str]:
    """Return a command line that runs ``command`` as a user, by number, and its group alone."""
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    # Or root's capabilities would stay until the next program is started.
    become += ["--inh-caps=-all", "--bounding-set=-all", *command]
    python = Path(sys.base_prefix).resolve()
    closed = [path for path in python.parents if not path.stat().st_mode & 0o001]
    if not closed:
        return become
    view = ["unshare", "--mount", "sh", "-ec", _VIEW, "sh"]
    return [*view, str(python), str(closed[-1]), *become]


def own(user: int, *folders: Path) -> None:
    """Give folders and all that is in them to a user."""
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user)
