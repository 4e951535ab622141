"""The filter of system calls that takes the network from the app's process, with no way back.

`site_guard.launcher` installs it before anything of the app's interpreter runs.

An app that reached the SuperNode's port, or the rest of the hospital's network, could send what
`site_guard.answers` never sees. The filter holds for every thread and for every process that the
app starts. It allows no socket but a Unix one, no ``io_uring`` (which opens sockets by itself), and
no access to another process's memory or open files.

It leaves open Unix sockets of the machine (a container engine's, those without a file) and files
that the site's user may write. A container of its own has none of the first; one that is read-only
has few of the second.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from dataclasses import dataclass
from errno import EPERM
from typing import Any

_LOAD, _RETURN, _EQUAL, _AT_LEAST = 0x20, 0x06, 0x15, 0x35  # linux/bpf_common.h
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | EPERM
_X32 = 0x40000000  # the first system call of x86-64's second set of numbers
Instruction = tuple[int, int, int, int]  # code, jumps if true and if false, operand


@dataclass(frozen=True)
class Architecture:
    """The numbers of one kind of processor, from the kernel's tables of system calls.

    Parameters
    ----------
    audit : int
        The kernel's number of it, which the filter reads.
    seccomp : int
        The call that installs a filter.
    sockets : tuple of int
        ``socket`` and ``socketpair``.
    refused : tuple of int
        ``ptrace``, ``process_vm_readv``, ``process_vm_writev``, ``io_uring_setup``, ``pidfd_getfd``.
    """

    audit: int
    seccomp: int
    sockets: tuple[int, int]
    refused: tuple[int, ...]


KNOWN = {
    "x86_64": Architecture(0xC000003E, 317, (41, 53), (101, 310, 311, 425, 438)),
    "aarch64": Architecture(0xC00000B7, 277, (198, 199), (117, 270, 271, 425, 438)),
}


def program(architecture: Architecture) -> list[Instruction]:
    """Return the filter, in the kernel's classic BPF."""
    refused = [(_AT_LEAST, _X32), *((_EQUAL, number) for number in architecture.refused)]
    sockets = [(_EQUAL, number) for number in architecture.sockets]
    tests = len(refused) + len(sockets)
    to_domain, to_refusal = tests, tests + 2  # jumps of the first test; each later one is shorter
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *((code, to_refusal - i, 0, k) for i, (code, k) in enumerate(refused)),
        *((code, to_domain - i, 0, k) for i, (code, k) in enumerate(sockets, len(refused))),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, socket.AF_UNIX),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]


class NoFilter(Exception):
    """There is no filter for this machine; the text says why."""


def filter_order() -> dict[str, Any]:
    """Return the order from which `site_guard.launcher` installs the filter; raise NoFilter."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in KNOWN or struct.calcsize("P") != 8:
        raise NoFilter(
            f"there is no filter for {sys.platform} on {machine!r}, only for Linux on "
            f"{' and '.join(KNOWN)}"
        )
    architecture = KNOWN[machine]
    instructions = b"".join(struct.pack("=HBBI", *each) for each in program(architecture))
    return {"seccomp": architecture.seccomp, "program": instructions.hex()}
