"""Landlock's rules for the app's process: which files it may read and write, whoever its user is.

The kernel knows them since Linux 5.13, and more of them with each version (its "ABI"). The rules
hold for all that the process starts. They also keep it from reading the memory of other processes
and, from version 6 on, from signalling them and from Unix sockets without a file.

They do not hide that a file exists, and what its size and owner are.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CREATE_RULESET, _VERSION = 444, 1
# linux/landlock.h
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE = 1 << 4 | 1 << 5
_MAKE = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10  # folders, files, sockets, pipes: no devices, no links
_REFER, _TRUNCATE, _DEVICE_CONTROL = 1 << 13, 1 << 14, 1 << 15
_ON_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _DEVICE_CONTROL
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract Unix sockets and signals
_TCP_SINCE, _SCOPES_SINCE = 4, 6

# What Python, torch and CUDA read. Not all of /etc: settings and keys may lie there.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/opt/cuda")
FILES = (
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/passwd", "/etc/group"),
    *("/etc/nsswitch.conf", "/etc/localtime", "/etc/timezone", "/etc/locale.alias"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/mime.types", "/etc/alternatives"),
    *("/etc/OpenCL", "/etc/vulkan", "/etc/nvidia"),
    *("/proc", "/sys", "/run/nvidia-persistenced"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/kfd")
DEVICE_NAMES = ("nvidia*", "dri")
COMPLETE = 6  # the version from which on nothing that is said here is missing
SHARED_MEMORY = "/dev/shm"  # where torch and multiprocessing share tensors


def kernel_version() -> int:
    """Return which version of Landlock this kernel has in force; 0 for none."""
    if sys.platform != "linux":
        return 0
    kernel = ctypes.CDLL(None, use_errno=True)
    found = kernel.syscall(
        ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)
    )
    return max(0, int(found))


def rules(
    version: int,
    *,
    programs: Iterable[Path],
    read: Iterable[Path],
    write: Iterable[Path],
    network: bool,
) -> dict[str, Any]:
    """Return the order from which `site_guard.launcher` makes the rules.

    Parameters
    ----------
    version : int
        As `kernel_version` returns it, above 0.
    programs : iterable of Path
        Folders of Python and its packages, which may be read and run, beside the system's.
    read, write : iterable of Path
        Files and folders that may be read; and those that may be written as well.
    network : bool
        Whether the process keeps its network.
    """
    handled = max((since, rights) for since, rights in _HANDLED.items() if since <= version)[1]
    runs, reads = _EXECUTE | _READ | _LIST, _READ | _LIST
    writes = reads | _WRITE | _REMOVE | _MAKE | _REFER | _TRUNCATE
    device = _READ | _LIST | _WRITE | _DEVICE_CONTROL
    found = [path for name in DEVICE_NAMES for path in sorted(Path("/dev").glob(name))]
    allowed = [
        *((path, runs) for path in (*SYSTEM, *programs)),
        *((path, reads) for path in (*FILES, *read)),
        *((path, device) for path in (*DEVICES, *found)),
        *((path, writes) for path in (SHARED_MEMORY, *write)),
    ]
    fields = [handled]
    if version >= _TCP_SINCE:
        fields.append(0 if network else _TCP)
    if version >= _SCOPES_SINCE:
        fields.append(_SCOPES)
    return {
        "attributes": struct.pack(f"={len(fields)}Q", *fields).hex(),
        "rules": [(str(path), rights & handled, _ON_FILES & handled) for path, rights in allowed],
    }
