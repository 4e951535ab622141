"""Freed memory stays with the process for the next message, instead of going back page by page.

A message of 45 MB is copied a dozen times on its way, and new memory is filled with zeros by the
kernel, page by page: that took more processor time than the copies themselves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

LARGEST, KEPT = 128 << 20, 256 << 20  # bytes of a block that is kept; of all that are kept
# The C library's numbers (malloc.h). One arena: blocks larger than 64 MB fit into the first alone.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
VARIABLES: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": str(LARGEST),
    "MALLOC_TRIM_THRESHOLD_": str(KEPT),
}
"""The same for a process that is started: the C library reads them from its environment."""


def keep_freed_memory() -> bool:
    """Let this process keep up to ``KEPT`` bytes that it freed; return whether it will.

    Only GNU's C library can be asked for it. To be called before other threads are started.
    """
    try:
        mallopt: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    options = {_MMAP_THRESHOLD: LARGEST, _TRIM_THRESHOLD: KEPT, _ARENA_MAX: 1}
    taken = [mallopt(option, value) for option, value in options.items()]
    return all(taken)
