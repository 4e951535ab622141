"""What a process of ours asks of the kernel for itself: no dumps of its memory, no lost children."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path

_SET_DUMPABLE, _SET_CHILD_SUBREAPER = 4, 36  # linux/prctl.h
# linux/capability.h: what starting, and ending, the process of another user takes.
CAPABILITIES = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}
_PAUSE, _MOST_SECONDS = 0.02, 10.0


def close_memory() -> str:
    """Keep other processes of this user out of this one's memory; return "" or why that failed.

    Neither ``ptrace`` nor ``/proc/PID/mem`` opens it then, and it leaves no core dump.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _prctl(_SET_DUMPABLE, 0)


def adopt_orphans() -> str:
    """Become the parent of what a child leaves behind; return "" or why that failed.

    A daemon, which has left its session and whose parent has ended, would otherwise be the child of
    the machine's first process, and nobody would know whose it was.
    """
    return _prctl(_SET_CHILD_SUBREAPER, 1)


def missing_capabilities() -> list[str]:
    """Return the capabilities without which this process cannot start another user's."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return [] if os.geteuid() == 0 else sorted(CAPABILITIES)
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    effective = int(lines["CapEff"], 16)
    return sorted(name for name, bit in CAPABILITIES.items() if not effective >> bit & 1)


def descendants(of: int) -> set[int]:
    """Return the ids of a process's children, of theirs, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name, in parentheses, may have anything in it: spaces and parentheses as well.
            after = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(after[1]), []).append(int(entry.name))
    found: set[int] = set()
    left = [of]
    while left:
        new = set(children.get(left.pop(), ())) - found
        found |= new
        left += new
    return found


def kill_descendants() -> set[int]:
    """Kill whatever this process has started or adopted; return the ids of what would not end.

    Only for a process that has called `adopt_orphans`, all of whose children are the app's.
    """
    until = time.monotonic() + _MOST_SECONDS
    while left := descendants(os.getpid()):
        # Some may have started others meanwhile: therefore again, until there are none.
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if time.monotonic() > until:
            return left
        time.sleep(_PAUSE)
    return set()


def _prctl(option: int, value: int) -> str:
    if sys.platform != "linux":
        return f"{sys.platform} has no such thing"
    kernel = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_ulong(0)
    if kernel.prctl(ctypes.c_int(option), ctypes.c_ulong(value), none, none, none):
        return os.strerror(ctypes.get_errno())
    return ""
