"""What runs first in the app's process: it gives up its rights, then becomes Python for the app.

The guard starts it as ``python -I -S -c TEXT ORDER`` with the text of this file as it was when the
guard started. So no ``.pth`` file, no package of the working folder and no file of site-packages
runs before the process has its limits, its user, its view of the files and its filter of system
calls. Nothing but the standard library may be imported here.

It is a program of its own and not a ``preexec_fn``: that would run between fork and exec of a
process with many threads, where a lock that another thread held is never released.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

# prctl(2), capabilities(7), landlock(7); the numbers of Landlock's calls are the same everywhere.
_NO_NEW_PRIVILEGES, _AMBIENT, _CLEAR_ALL = 38, 47, 4
_SECURE_BITS, _NO_ROOT_LOCKED, _CAPABILITY_VERSION = 28, 0b11, 0x20080522
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _PATH_BENEATH = 444, 445, 446, 1
_SET_FILTER = 1
ENDED = 111  # exit status where a right could not be given up


class Failed(Exception):
    """A right could not be given up; the text says which, and why."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def confine(order: dict[str, Any]) -> None:
    """Give up what ``order`` does not leave to this process.

    Raises
    ------
    Failed
        One of the steps did not succeed: nothing else may then be started.
    """
    os.umask(0o077)
    for name, most in order["limits"].items():
        _limit(getattr(resource, name), most)
    _become(order["user"])
    _make_folders(Path(order["temporary"]), order["writable"], order["readable"])
    os.chdir(order["temporary"])
    kernel = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux":
        return  # the guard has seen to it that this is wanted
    # The kernel takes what follows from a process without privileges only after this.
    _call("no new privileges", kernel.prctl, _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if order["landlock"] is not None:
        _restrict_files(kernel, order["landlock"])
    if order["filter"] is not None:
        _install_filter(kernel, order["filter"])


def _limit(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def _become(user: dict[str, Any] | None) -> None:
    """Become the app's user; in any case keep no capability that the guard was started with."""
    try:
        if user is not None:
            os.setgroups(user["groups"])
            os.setresgid(user["gid"], user["gid"], user["gid"])
            os.setresuid(user["uid"], user["uid"], user["uid"])
    except OSError as error:
        raise Failed(f"it cannot become the app-user: {error.strerror}") from None
    if sys.platform == "linux":
        _drop_capabilities(ctypes.CDLL(None, use_errno=True))


def _drop_capabilities(kernel: ctypes.CDLL) -> None:
    """Keep none of the rights that root, or a service manager, gave to the guard."""
    # Ambient ones would outlast the exec, and for root the exec would bring back all of them.
    _call("ambient capabilities", kernel.prctl, _AMBIENT, _CLEAR_ALL, 0, 0, 0)
    if os.geteuid() == 0:
        _call("root's capabilities", kernel.prctl, _SECURE_BITS, _NO_ROOT_LOCKED, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if kernel.capset(header, none):
        raise Failed(f"capabilities: {os.strerror(ctypes.get_errno())}")


def _make_folders(temporary: Path, writable: list[str], readable: list[str]) -> None:
    shutil.rmtree(temporary, ignore_errors=True)  # of the process before
    for folder in (*map(Path, writable), temporary):
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Failed(f"{folder}: {error.strerror}; its user must own this folder") from None
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise Failed(f"{folder}: its user may not write there; it must own this folder")
    for path in map(Path, readable):
        try:
            path.stat()
        except FileNotFoundError:
            continue  # the app itself says what it misses
        except OSError:
            raise Failed(f"{path}: its user may not enter the folders above it") from None
        if not os.access(path, os.R_OK):
            raise Failed(f"{path}: its user may not read it; allow it to")


def _restrict_files(kernel: ctypes.CDLL, order: dict[str, Any]) -> None:
    """Allow this process and all that it starts no files but those of the rules."""
    attributes = bytes.fromhex(order["attributes"])
    ruleset = _call(
        "Landlock",
        kernel.syscall,
        _CREATE_RULESET,
        ctypes.c_char_p(attributes),
        ctypes.c_size_t(len(attributes)),
        0,
    )
    for path, allowed, on_files in order["rules"]:
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # what is not there need not be allowed
        if not Path(path).is_dir():
            allowed &= on_files
        rule = _Beneath(allowed, folder)
        _call(
            f"Landlock, {path}",
            kernel.syscall,
            _ADD_RULE,
            ruleset,
            _PATH_BENEATH,
            ctypes.byref(rule),
            0,
        )
        os.close(folder)
    _call("Landlock", kernel.syscall, _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _install_filter(kernel: ctypes.CDLL, order: dict[str, Any]) -> None:
    """Install the filter of system calls, which holds for all that this process starts."""
    instructions = bytes.fromhex(order["program"])
    program = _Program(len(instructions) // 8, instructions)
    _call(
        "the network cannot be taken away",
        kernel.syscall,
        order["seccomp"],
        _SET_FILTER,
        0,
        ctypes.byref(program),
    )


def _call(what: str, function: Any, number: int, *arguments: Any) -> int:
    """Make a system call; raise Failed where the kernel says no."""
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(function(ctypes.c_long(number), *given))
    if result < 0:
        raise Failed(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def main() -> None:
    """Do what the order on the command line says, and become its command."""
    order = json.loads(sys.argv[1])
    status = order["status"]
    try:
        confine(order)
        os.set_inheritable(status, False)  # closed by the exec: that is how the guard learns of it
        os.execv(order["command"][0], order["command"])
    except (Failed, OSError, ValueError) as error:
        os.write(status, str(error).encode()[:1000])
        os._exit(ENDED)


if __name__ == "__main__":
    main()
